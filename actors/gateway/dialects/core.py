"""What every API of the gateway has in common: what is asked, how bodies are read, how a call fails.

A *dialect* translates between one API's wire and these words. It is pure: no store, no engine, no
socket. What it does with each field of its API, ``fields`` says; a field that it reads and that has the
wrong type is a ``BadRequestError`` that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Protocol, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from al_ray.actors.gateway.dialects.fields import Does, Fields, Treatment
from al_ray.errors import BadRequestError
from al_ray.traces.messages import Message, thought
from al_ray.types import JSON, ChatDelta, ChatReply

MAX_CHOICES = 16
MAX_NAMES = 1000
"""In one mapping."""

Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1)]
Tokens = Annotated[int, Field(ge=1)]
Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
"""20 is what vLLM gives at most."""
_Each = TypeVar("_Each")
Many = Annotated[list[_Each], Field(fail_fast=True)]
"""Of which the first that is wrong is told: a body has room for millions, and to tell of one takes two
kilobytes."""
Texts = Annotated[tuple[str, ...], Field(fail_fast=True)]
Stop = str | Texts | None


def _few(named: Any) -> Any:
    if isinstance(named, dict) and len(named) > MAX_NAMES:
        raise ValueError(f"has {len(named)} names; give {MAX_NAMES} at most")
    return named


FewNames = BeforeValidator(_few)
"""For a mapping of which every name or value may be wrong."""


class Body(BaseModel):
    """A request body, or a part of one."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class AskedSampling:
    """The sampling that an agent asks for; None where it says nothing."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1


@dataclass(frozen=True, slots=True)
class ToldAs:
    """What a tool is to the API that is a function to the model."""

    type: str
    """As in ``tools`` of the API."""
    name: str
    namespace: str | None = None


@dataclass(slots=True)  # not frozen: to set twenty fields of such a one would be a quarter of parsing
class Asked:
    """What an agent asks for, in whatever API. Nobody changes it."""

    model: str
    sampling: AskedSampling
    said: Mapping[str, JSON]
    """The sampling again, as far as the agent said anything, in the API's own names."""
    messages: Sequence[Message] = ()
    """In OpenAI's chat shape; those of ``previous_id`` come before them."""
    prompt: str | Sequence[int] | None = None
    """A raw prompt, in place of messages."""
    instructions: str | None = None
    """A system message for this call alone."""
    previous_id: str | None = None
    """The call that this one continues."""
    answers: Sequence[tuple[int, str]] = ()
    """Calls whose answers stand among ``messages``: before which of them, and the call's id."""
    tools: Sequence[Mapping[str, JSON]] | None = None
    tool_choice: JSON = None
    parallel_tool_calls: bool = True
    told_as: Mapping[str, ToldAs] = field(default_factory=dict)
    """The tools that the API knows otherwise, by the function's name."""
    left_out: Sequence[str] = ()
    """The types of the tools that cannot be offered, because the API's own servers would do their work."""
    other_tools: Sequence[Mapping[str, JSON]] = ()
    """Those themselves, as far as a hosted model may know them."""
    other_choice: JSON = None
    """The choice that was sent, for a hosted model: the trained one is left none where all were left out."""
    response_format: JSON = None
    top_logprobs: int | None = None
    stream: bool = False
    include_usage: bool = False
    """In a stream."""
    echo: Mapping[str, JSON] = field(default_factory=dict)
    """What of the request the API repeats in its reply."""
    extra: Mapping[str, JSON] = field(default_factory=dict)
    """Fields that we do not read; a hosted model may."""
    refused: str | None = None
    """Why the trained model cannot be asked so; a hosted one may."""


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one answer begins with."""

    id: str
    model: str
    created: int
    """Seconds since the epoch."""

    def object(self, kind: str) -> dict[str, JSON]:
        """The beginning of an object of OpenAI's."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request is not answered, for the agent."""

    status: int
    message: str
    code: str | None = None
    retry_after: str | None = None
    """The header of that name."""


class Stream(Protocol):
    """One streamed answer on its way to the wire, as server-sent events."""

    def begin(self) -> Iterable[bytes]: ...

    def piece(self, delta: ChatDelta, /) -> Iterable[bytes]: ...

    def end(self, reply: ChatReply, /) -> Iterable[bytes]: ...

    def fail(self, failure: Failure, /) -> Iterable[bytes]: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API: where it is served, and its translators."""

    path: str
    id_prefix: str
    parse: Callable[[bytes], Asked]
    reply: Callable[[Head, Asked, ChatReply], JSON]
    stream: Callable[[Head, Asked], Stream]
    error: Callable[[Failure], JSON]
    body: type[Body]
    """What ``parse`` reads."""


_AnyBody = TypeVar("_AnyBody", bound=Body)
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 19
"""Which integers of more than 64 bits have; so may texts."""
_MAX_DIGITS = 20
"""Of 2**64, and of -(2**63) with its sign."""


def parse_body(model: type[_AnyBody], raw: bytes) -> _AnyBody:
    """Raises ``BadRequestError`` that names every field that is wrong, of a list the first part that is, and
    what is wrong with it."""
    if _LONG_NUMBER in raw.translate(_DIGITS_AS_0):  # a dozen times as fast as a regular expression
        _refuse_long_integers(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise BadRequestError(problems_told(error)) from None


def parse_part(model: type[_AnyBody], part: JSON, place: str) -> _AnyBody:
    """A part of a body that was left unread. Raises ``BadRequestError``."""
    try:
        return model.model_validate(part)
    except ValidationError as error:
        raise BadRequestError(f"{place}: {problems_told(error)}") from None


def problems_told(error: ValidationError) -> str:
    """Every field that is wrong, and what is wrong with it."""
    problems = error.errors(include_url=False, include_input=False)
    if problems[0]["type"] == "json_invalid":
        return f"the body is not JSON: {problems[0]['ctx']['error']}"
    told = (f"{_place(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in problems)
    return "; ".join(dict.fromkeys(told))


def _refuse_long_integers(raw: bytes) -> None:
    """No store takes them. What is not JSON is left to whoever reads it next."""
    with suppress(json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        json.loads(raw, parse_int=_integer)


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS or not -(2**63) <= int(digits) < 2**64:
        raise BadRequestError(f"the body has an integer of more than 64 bits: {digits[:40]}")
    return int(digits)


def _place(location: Sequence[int | str]) -> str:
    """Without pydantic's names for the types that it tried."""
    types = ("str", "constrained-str")
    shown = [str(part) for part in location if "[" not in str(part) and part not in types]
    return ".".join(part for part in shown if not part.startswith("_")) or "body"


def refused(fields: Fields, sent: Mapping[str, JSON]) -> str | None:
    """What cannot be left unread of the fields that were sent and are not read, and what to do instead."""
    if not sent:  # as nearly always
        return None
    told = [
        f"{name}: {fields[name].told}"
        for name in sent.keys() & fields.keys()
        if fields[name].does is Does.REFUSED and sent[name] not in fields[name].harmless
    ]
    return "; ".join(sorted(told)) or None


def refuse(fields: Fields, sent: Mapping[str, JSON]) -> None:
    """Raises ``BadRequestError`` for what ``refused`` tells."""
    if told := refused(fields, sent):
        raise BadRequestError(told)


def left_out(fields: Fields, sent: Mapping[str, JSON]) -> list[str]:
    """The fields that were sent and that ask for a tool of the API's own servers."""
    return [name for name in sorted(sent.keys() & fields.keys()) if sent[name] and _is_left_out(fields[name])]


def _is_left_out(treatment: Treatment) -> bool:
    return treatment.does is Does.LEFT_OUT


def stops(value: Stop) -> tuple[str, ...]:
    """One stop sequence or many, as many."""
    return (value,) if isinstance(value, str) else value or ()


def said(body: Body, *names: str) -> dict[str, JSON]:
    """The fields among ``names``, of plain values, that the agent sent."""
    sent = body.model_fields_set
    return {name: getattr(body, name) for name in names if name in sent}


def event(data: JSON, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


def openai_error(failure: Failure) -> dict[str, JSON]:
    """OpenAI's shape of an error."""
    kind = "invalid_request_error"
    code = failure.code
    if failure.status == HTTPStatus.UNAUTHORIZED:
        kind, code = "authentication_error", code or "invalid_api_key"
    elif failure.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = "server_error"
    return {"error": {"message": failure.message, "type": kind, "param": None, "code": code}}


def reasoning_of(message: Mapping[str, JSON]) -> str:
    """What a message or a piece of one says that was thought."""
    return str(thought(message) or "")


def openai_usage(reply: ChatReply) -> dict[str, JSON]:
    """As OpenAI counts."""
    used = reply.usage
    told: dict[str, JSON] = {
        "prompt_tokens": used.input_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
    }
    if used.cached_tokens:
        told["prompt_tokens_details"] = {"cached_tokens": used.cached_tokens}
    if used.reasoning_tokens:
        told["completion_tokens_details"] = {"reasoning_tokens": used.reasoning_tokens}
    return told
