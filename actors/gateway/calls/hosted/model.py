"""A hosted model: any server of OpenAI's chat completions, for agents that are not trained.

What the agent asks goes there as it came, with the server's own name of the model and the server's
key; what comes back is told as an engine's answer would be, without token ids.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson

from al_ray.actors.gateway.calls.call import Call, Pieces
from al_ray.actors.gateway.calls.hosted.answer import (
    TOLD,
    ToolCallNumbers,
    checked,
    choice_of,
    code_of,
    in_words,
    index_of,
    logprobs_of,
    message_of,
    reason_of,
    strange,
    usage_of,
)
from al_ray.actors.gateway.calls.hosted.http_client import HttpAnswer, HttpClient
from al_ray.actors.gateway.calls.partial import PartialAnswer
from al_ray.errors import BadRequestError, HostedModelError
from al_ray.types import JSON, ChatDelta, ChatReply, Choice, Usage

_STRANGE: Final = (ValueError, LookupError, TypeError, AttributeError)
"""What reading an answer of another shape raises."""


@dataclass(frozen=True, slots=True)
class HostedModelSpec:
    """Where a hosted model is."""

    base_url: str
    """With ``/v1``, as OpenAI's client takes it."""
    model: str
    api_key: str | None
    pinned: bool = False
    """It stands in the trained model's place: sampled as the recipe says, not as the agent asks."""


class HostedModel:
    """One hosted model, to be made within an event loop."""

    def __init__(self, spec: HostedModelSpec) -> None:
        self._spec = spec
        headers = {"Content-Type": "application/json"}
        if spec.api_key:
            headers["Authorization"] = f"Bearer {spec.api_key}"
        self._client = HttpClient(f"{spec.base_url.rstrip('/')}/chat/completions", headers)

    async def chat(self, call: Call) -> ChatReply:
        with _failures_told():
            async with self._client.post(self._body(call, {})) as answer:
                await _accepted(answer)
                body = checked(orjson.loads(await answer.read()))
            choices = [choice_of(choice, place) for place, choice in enumerate(body["choices"])]
            if not choices:
                raise strange("it has no choices")
            return ChatReply((), choices, hosted_usage=usage_of(body))

    async def stream(self, call: Call) -> AsyncGenerator[Pieces, None]:
        seen = PartialAnswer()
        numbers = ToolCallNumbers()
        reasons: dict[int, str] = {}
        used = Usage(0, 0)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        with _failures_told():
            async with self._client.post(self._body(call, options)) as answer:
                await _accepted(answer)
                async for chunk in _chunks(answer):
                    deltas = []
                    if chunk.get("usage"):
                        used = usage_of(chunk)
                    for place, choice in enumerate(chunk.get("choices") or ()):
                        index = index_of(choice, place)
                        told = numbers.numbered(index, in_words(choice.get("delta") or {}))
                        delta = ChatDelta(index, told, token_logprobs=logprobs_of(choice))
                        seen.add(delta)
                        reasons[index] = choice.get("finish_reason") or reasons.get(index, "")
                        deltas.append(delta)
                    if deltas:
                        yield deltas
            if not reasons or not all(reasons.values()):
                raise strange("its stream ended before the answer did, without a finish_reason")
        choices = []
        for index, reason in sorted(reasons.items()):
            message = seen.message(index)
            choices.append(Choice(index, message, reason_of(reason, message), (), (), ()))
        yield [ChatReply((), choices, hosted_usage=used)]

    def _body(self, call: Call, options: dict[str, JSON]) -> bytes:
        return orjson.dumps(_payload(call, self._spec.pinned) | options | {"model": self._spec.model})


@contextmanager
def _failures_told() -> Iterator[None]:
    """As ``HostedModelError``."""
    try:
        yield
    except OSError as error:
        told = str(error) or type(error).__name__
        raise HostedModelError(HTTPStatus.BAD_GATEWAY, f"the hosted model did not answer: {told}") from error
    except _STRANGE as error:
        raise strange(repr(error)) from error


async def _accepted(answer: HttpAnswer) -> None:
    """Raises what the server refuses the call with."""
    if answer.status >= HTTPStatus.BAD_REQUEST:
        raw = await answer.read()
        wait = answer.headers.get(b"retry-after", b"").decode("latin-1") or None
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            body = raw[:TOLD].decode(errors="replace")
        raise HostedModelError(answer.status, message_of(body), code_of(body), wait)
    if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
        told = f"the hosted model has moved ({answer.status}): its base_url must be where it is now"
        raise HostedModelError(HTTPStatus.BAD_GATEWAY, told)


def _payload(call: Call, pinned: bool) -> dict[str, JSON]:
    """The agent's request in the shape of chat completions, without what it left out."""
    asked = call.asked
    sampling = call.sampling if pinned else asked.sampling
    if asked.prompt is not None:
        raise BadRequestError(
            f"model: {call.model} is a hosted model, which takes messages and no raw prompt"
        )
    fields: dict[str, JSON] = {
        "messages": [_as_openai_has_it(message) for message in call.messages],
        "tools": [*(asked.tools or ()), *asked.other_tools] or None,
        "tool_choice": asked.tool_choice or asked.other_choice,
        "parallel_tool_calls": None if asked.parallel_tool_calls else False,
        "response_format": asked.response_format,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_completion_tokens": sampling.max_tokens,
        "stop": asked.sampling.stop or None,
        "n": asked.sampling.n if asked.sampling.n > 1 else None,
        "seed": asked.said.get("seed"),
        "logprobs": True if asked.top_logprobs is not None else None,
        "top_logprobs": asked.top_logprobs or None,
    }
    # The server may know only the older name.
    if "max_tokens" in asked.said:
        fields["max_tokens"] = fields.pop("max_completion_tokens")
    return {**asked.extra, **{name: value for name, value in fields.items() if value is not None}}


def _as_openai_has_it(message: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Without what Anthropic's API alone tells of a tool's answer."""
    if message.get("role") != "tool" or "status" not in message:
        return message
    return {name: value for name, value in message.items() if name != "status"}


async def _chunks(answer: HttpAnswer) -> AsyncIterator[Any]:
    """The JSON objects of server-sent events."""
    if answer.headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"application/json":
        checked(orjson.loads(await answer.read()))
        raise strange("it was asked to stream, and answered at once")
    async for line in _lines(answer):
        name, _, data = line.partition(b":")
        data = data.strip()
        if name != b"data" or not data or data == b"[DONE]":
            continue
        yield checked(orjson.loads(data))


async def _lines(answer: HttpAnswer) -> AsyncIterator[bytes]:
    rest = b""
    while piece := await answer.piece():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
    yield rest
