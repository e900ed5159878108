"""OpenAI's chat completions on the wire: request bodies in, completions and chunks out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from al_ray.errors import BadRequestError
from al_ray.types import JSON, ChatDelta, ChatReply

MAX_CHOICES = 16


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _ResponseFormat(BaseModel):
    type: Literal["text"]


class ChatBody(BaseModel):
    """What is read of a request. Fields that the API has and this does not are without effect."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if value is None:
            return ()
        return (value,) if isinstance(value, str) else value

    @field_validator("n", "stream", mode="before")
    @classmethod
    def _null_is_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    @property
    def limit(self) -> int | None:
        """Tokens that the agent wants at most."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def asked(self) -> dict[str, JSON]:
        """The sampling that the agent asked for, as far as it said anything."""
        names = {"temperature", "top_p", "max_completion_tokens", "max_tokens", "n", "stop", "seed"}
        return self.model_dump(mode="json", include=names, exclude_unset=True)


def parse_chat_body(body: bytes) -> ChatBody:
    """Raises ``BadRequestError`` that names the field and what is wrong with it."""
    try:
        return ChatBody.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from None
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors())
        raise BadRequestError("; ".join(problems)) from None


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """What every object of one answer begins with."""

    id: str
    model: str
    created: int
    """Seconds since the epoch."""

    def object(self, kind: str) -> dict[str, JSON]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def chat_completion(head: ReplyHead, reply: ChatReply) -> dict[str, JSON]:
    """The whole answer as OpenAI's ``chat.completion`` object."""
    choices = [
        {
            "index": choice.index,
            "message": dict(choice.message),
            "finish_reason": choice.finish_reason,
            "logprobs": None,
        }
        for choice in reply.choices
    ]
    return head.object("chat.completion") | {"choices": choices, "usage": _usage(reply)}


def chat_chunks(
    head: ReplyHead, piece: ChatDelta | ChatReply, *, include_usage: bool
) -> Iterator[dict[str, JSON]]:
    """The ``chat.completion.chunk`` objects for a piece; the whole reply gives those that end the stream."""
    if isinstance(piece, ChatDelta):
        yield _chunk(head, piece.index, piece.delta, None)
        return
    for choice in piece.choices:
        yield _chunk(head, choice.index, {}, choice.finish_reason)
    if include_usage:
        yield head.object("chat.completion.chunk") | {"choices": [], "usage": _usage(piece)}


def _chunk(
    head: ReplyHead, index: int, delta: Mapping[str, JSON], finish_reason: str | None
) -> dict[str, JSON]:
    choice = {"index": index, "delta": dict(delta), "finish_reason": finish_reason}
    return head.object("chat.completion.chunk") | {"choices": [choice]}


def _usage(reply: ChatReply) -> dict[str, int]:
    prompt = len(reply.prompt_ids)
    completion = sum(len(choice.response_ids) for choice in reply.choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
