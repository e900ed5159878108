"""What every API of the gateway has in common: what is asked, how bodies are read, how a call fails.

A *dialect* translates between one API's wire and these words. It is pure: no store, no engine, no
socket. Fields that an API has and we do not know are without effect; a known field of the wrong type
is a ``BadRequestError`` that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Protocol, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from al_ray.errors import BadRequestError
from al_ray.types import JSON, ChatDelta, ChatReply

MAX_CHOICES = 16
Message = Mapping[str, JSON]

Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1)]
Tokens = Annotated[int, Field(ge=1)]
Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
"""20 is what vLLM gives at most."""
Stop = str | tuple[str, ...] | None


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
class Asked:
    """What an agent asks for, in whatever API."""

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
    tools: Sequence[Mapping[str, JSON]] | None = None
    tool_choice: JSON = None
    response_format: JSON = None
    top_logprobs: int | None = None
    stream: bool = False
    include_usage: bool = False
    """In a stream."""
    echo: Mapping[str, JSON] = field(default_factory=dict)
    """What of the request the API repeats in its reply."""
    extra: Mapping[str, JSON] = field(default_factory=dict)
    """Fields that we do not know; a hosted model may."""


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
    """Raises ``BadRequestError`` that names every field that is wrong, and what is wrong with it."""
    if _LONG_NUMBER in raw.translate(_DIGITS_AS_0):  # a dozen times as fast as a regular expression
        _refuse_long_integers(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
    if problems[0]["type"] == "json_invalid":
        raise BadRequestError(f"the body is not JSON: {problems[0]['ctx']['error']}")
    told = (f"{_place(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in problems)
    raise BadRequestError("; ".join(dict.fromkeys(told)))


def _refuse_long_integers(raw: bytes) -> None:
    """No store takes them. What is not JSON is left to whoever reads it next."""
    with suppress(json.JSONDecodeError, UnicodeDecodeError):
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


def stops(value: Stop) -> tuple[str, ...]:
    """One stop sequence or many, as many."""
    return (value,) if isinstance(value, str) else value or ()


def said(body: Body, *names: str) -> dict[str, JSON]:
    """The fields among ``names``, of plain values, that the agent sent."""
    return {name: getattr(body, name) for name in names if name in body.model_fields_set}


def event(data: JSON, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


def openai_error(failure: Failure) -> dict[str, JSON]:
    """OpenAI's shape of an error."""
    kind = "invalid_request_error"
    code = failure.code
    if failure.status == HTTPStatus.UNAUTHORIZED:
        kind, code = "authentication_error", "invalid_api_key"
    elif failure.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = "server_error"
    return {"error": {"message": failure.message, "type": kind, "param": None, "code": code}}


def openai_usage(reply: ChatReply) -> dict[str, int]:
    """As OpenAI counts."""
    used = reply.usage
    return {
        "prompt_tokens": used.input_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
    }


def function_tool(
    name: str, description: str | None, parameters: JSON, strict: bool | None = None
) -> dict[str, JSON]:
    """A tool in OpenAI's chat shape, without what was not said."""
    function = {"name": name, "description": description, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


def function_call(call_id: str, name: str, arguments: str) -> dict[str, JSON]:
    """A tool call in OpenAI's chat shape."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
