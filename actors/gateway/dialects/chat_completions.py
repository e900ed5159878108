"""OpenAI's chat completions: request bodies in, completions and chunks out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from al_ray.actors.gateway.dialects.core import (
    Asked,
    AskedSampling,
    Body,
    Choices,
    Dialect,
    Head,
    Stop,
    Temperature,
    Tokens,
    TopLogprobs,
    TopP,
    openai_error,
    openai_usage,
    parse_body,
    said,
    stops,
)
from al_ray.actors.gateway.dialects.object_stream import ObjectStream, StreamOptions
from al_ray.types import JSON, ChatDelta, ChatReply, Choice, TokenLogprob


class _Function(Body):
    name: str


class NamedFunction(Body):
    type: Literal["function"]
    function: _Function


class _JsonSchema(Body):
    model_config = ConfigDict(extra="allow")

    name: str
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Body):
    type: Literal["text", "json_object"]


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: _JsonSchema


class ChatBody(Body):
    """What is read of a request."""

    model_config = ConfigDict(extra="allow")

    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str = ""
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedFunction | None = None
    response_format: ResponseFormat | JsonSchemaFormat | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    n: Choices | None = None
    stop: Stop = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


def parse(raw: bytes) -> Asked:
    body = parse_body(ChatBody, raw)
    structured = body.response_format is not None and body.response_format.type != "text"
    return Asked(
        model=body.model,
        sampling=AskedSampling(
            temperature=body.temperature,
            top_p=body.top_p,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            stop=stops(body.stop),
            n=body.n or 1,
        ),
        said=said(body, "temperature", "top_p", "max_completion_tokens", "max_tokens", "n", "stop", "seed"),
        messages=body.messages,
        tools=body.tools,
        tool_choice=_plain(body.tool_choice),
        response_format=_plain(body.response_format) if structured else None,
        top_logprobs=body.top_logprobs or 0 if body.logprobs else None,
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
        extra=body.model_extra or {},
    )


def _plain(value: Any) -> JSON:
    return value.model_dump(mode="json", by_alias=True) if isinstance(value, Body) else value


def reply(head: Head, asked: Asked, answer: ChatReply) -> dict[str, JSON]:
    """The whole answer as OpenAI's ``chat.completion`` object."""
    choices = [
        {
            "index": choice.index,
            "message": dict(choice.message),
            "finish_reason": choice.finish_reason,
            "logprobs": _logprobs(choice.token_logprobs) if asked.top_logprobs is not None else None,
        }
        for choice in answer.choices
    ]
    return head.object("chat.completion") | {"choices": choices, "usage": openai_usage(answer)}


class ChatStream(ObjectStream):
    """``chat.completion.chunk`` objects."""

    kind = "chat.completion.chunk"

    def piece(self, delta: ChatDelta) -> Iterable[bytes]:
        if delta.delta or delta.token_logprobs:
            choice = _choice(delta.index, delta.delta, None)
            if delta.token_logprobs:
                choice["logprobs"] = _logprobs(delta.token_logprobs)
            yield self._chunk(choice)

    def _last(self, choice: Choice) -> JSON:
        return _choice(choice.index, {}, choice.finish_reason)


def _choice(index: int, delta: Mapping[str, JSON], finish_reason: str | None) -> dict[str, JSON]:
    return {"index": index, "delta": dict(delta), "finish_reason": finish_reason}


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, JSON]:
    return {
        "content": [
            _logprob(token.token, token.logprob)
            | {"top_logprobs": [_logprob(text, value) for text, value in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def _logprob(token: str, logprob: float) -> dict[str, JSON]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}


CHAT_COMPLETIONS = Dialect(
    "/v1/chat/completions", "chatcmpl-", parse, reply, ChatStream, openai_error, ChatBody
)
