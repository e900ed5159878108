"""OpenAI's completions: a raw prompt in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, field_validator

from al_ray.actors.gateway.dialects.core import (
    Asked,
    AskedSampling,
    Body,
    Choices,
    Dialect,
    Head,
    Many,
    Stop,
    Temperature,
    Tokens,
    TopP,
    openai_error,
    openai_usage,
    parse_body,
    refuse,
    said,
    stops,
)
from al_ray.actors.gateway.dialects.fields.completions import COMPLETIONS_FIELDS
from al_ray.actors.gateway.dialects.fields.vllm import with_vllms
from al_ray.actors.gateway.dialects.logprobs import told_logprob
from al_ray.actors.gateway.dialects.object_stream import ObjectStream, StreamOptions
from al_ray.types import JSON, ChatDelta, ChatReply, Choice, TokenLogprob

_FIELDS: Final = with_vllms(COMPLETIONS_FIELDS["request"], "/v1/completions")

TokenIds = Annotated[Many[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
OnePrompt = Annotated[list[Text | TokenIds], Field(min_length=1, max_length=1)]


class CompletionBody(Body):
    """What is read of a request."""

    model_config = ConfigDict(extra="allow")

    prompt: Text | TokenIds
    model: str = ""
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: Tokens | None = None
    n: Choices | None = None
    stop: Stop = None
    seed: int | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("prompt", mode="before", json_schema_input_type=Text | TokenIds | OnePrompt)
    @classmethod
    def _one_prompt(cls, value: Any) -> Any:
        """A list of one prompt is that prompt."""
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
            return value[0]
        return value


def parse(raw: bytes) -> Asked:
    body = parse_body(CompletionBody, raw)
    refuse(_FIELDS, body.model_extra or {})
    return Asked(
        model=body.model,
        sampling=AskedSampling(
            temperature=body.temperature,
            top_p=body.top_p,
            max_tokens=body.max_tokens,
            stop=stops(body.stop),
            n=body.n or 1,
        ),
        said=said(body, "temperature", "top_p", "max_tokens", "n", "stop", "seed"),
        prompt=body.prompt,
        top_logprobs=body.logprobs,
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
    )


def reply(head: Head, asked: Asked, answer: ChatReply) -> dict[str, JSON]:
    """The whole answer as OpenAI's ``text_completion`` object."""
    choices = [
        _choice(
            choice.index,
            str(choice.message["content"] or ""),
            choice.finish_reason,
            choice.token_logprobs if asked.top_logprobs is not None else (),
        )
        for choice in answer.choices
    ]
    return head.object("text_completion") | {"choices": choices, "usage": openai_usage(answer)}


class CompletionStream(ObjectStream):
    """``text_completion`` objects, piece by piece."""

    kind = "text_completion"

    def piece(self, delta: ChatDelta) -> Iterable[bytes]:
        text = delta.delta.get("content")
        if text or delta.token_logprobs:
            yield self._chunk(_choice(delta.index, str(text or ""), None, delta.token_logprobs))

    def _last(self, choice: Choice) -> JSON:
        return _choice(choice.index, "", choice.finish_reason, ())


def _choice(
    index: int, text: str, finish_reason: str | None, logprobs: Sequence[TokenLogprob]
) -> dict[str, JSON]:
    told = None
    if logprobs:
        told = {
            "tokens": [token.token for token in logprobs],
            "token_logprobs": [told_logprob(token.logprob) for token in logprobs],
            "top_logprobs": [{text: told_logprob(value) for text, value in token.top} for token in logprobs],
        }
    return {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": told}


COMPLETIONS = Dialect(
    "/v1/completions", "cmpl-", parse, reply, CompletionStream, openai_error, CompletionBody
)
