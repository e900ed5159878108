"""A hosted model: any server of OpenAI's chat completions, for agents that are not trained.

What the agent asks goes there as it came, with the server's own name of the model and the server's
key; what comes back is told as an engine's answer would be, without token ids.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson

from al_ray.actors.gateway.calls.call import Call
from al_ray.actors.gateway.calls.http_client import Answer, HttpClient
from al_ray.actors.gateway.calls.partial import PartialAnswer
from al_ray.errors import BadRequestError, HostedModelError
from al_ray.types import JSON, ChatDelta, ChatReply, Choice, TokenLogprob, Usage

_BAD_GATEWAY: Final = HTTPStatus.BAD_GATEWAY
_STRANGE: Final = (orjson.JSONDecodeError, LookupError, TypeError, AttributeError)
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
                body = orjson.loads(await answer.read())
            return ChatReply((), [_choice(choice) for choice in body["choices"]], hosted_usage=_usage(body))

    async def stream(self, call: Call) -> AsyncGenerator[ChatDelta | ChatReply, None]:
        seen = PartialAnswer()
        reasons: dict[int, str] = {}
        used = Usage(0, 0)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        with _failures_told():
            async with self._client.post(self._body(call, options)) as answer:
                await _accepted(answer)
                async for chunk in _chunks(answer):
                    if chunk.get("usage"):
                        used = _usage(chunk)
                    for choice in chunk.get("choices") or ():
                        told = _token_logprobs(choice)
                        delta = ChatDelta(choice["index"], choice.get("delta") or {}, token_logprobs=told)
                        seen.add(delta)
                        reasons[delta.index] = choice.get("finish_reason") or reasons.get(delta.index, "")
                        yield delta
        choices = [
            Choice(index, seen.message(index), reason, (), (), ())
            for index, reason in sorted(reasons.items())
        ]
        yield ChatReply((), choices, hosted_usage=used)

    def _body(self, call: Call, options: dict[str, JSON]) -> bytes:
        return orjson.dumps(_payload(call, self._spec.pinned) | options | {"model": self._spec.model})


@contextmanager
def _failures_told() -> Iterator[None]:
    """As ``HostedModelError``."""
    try:
        yield
    except OSError as error:
        told = str(error) or type(error).__name__
        raise HostedModelError(_BAD_GATEWAY, f"the hosted model did not answer: {told}") from error
    except _STRANGE as error:
        told = f"the hosted model's answer is no chat completion: {error!r}"
        raise HostedModelError(_BAD_GATEWAY, told) from error


async def _accepted(answer: Answer) -> None:
    """Raises what the server refuses the call with."""
    if answer.status >= HTTPStatus.BAD_REQUEST:
        raise HostedModelError(answer.status, _message(await answer.read()))
    if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
        told = f"the hosted model has moved ({answer.status}): its base_url must be where it is now"
        raise HostedModelError(_BAD_GATEWAY, told)


def _payload(call: Call, pinned: bool) -> dict[str, JSON]:
    """The agent's request in the shape of chat completions, without what it left out."""
    asked = call.asked
    sampling = call.sampling if pinned else asked.sampling
    if asked.prompt is not None:
        raise BadRequestError(
            f"model: {call.model} is a hosted model, which takes messages and no raw prompt"
        )
    fields: dict[str, JSON] = {
        "messages": call.messages,
        "tools": asked.tools,
        "tool_choice": asked.tool_choice,
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


async def _chunks(answer: Answer) -> AsyncIterator[Any]:
    """The JSON objects of server-sent events."""
    async for line in _lines(answer):
        name, _, data = line.partition(b":")
        data = data.strip()
        if name != b"data" or not data or data == b"[DONE]":
            continue
        chunk = orjson.loads(data)
        if chunk.get("error"):
            raise HostedModelError(_BAD_GATEWAY, _message(data))
        yield chunk


async def _lines(answer: Answer) -> AsyncIterator[bytes]:
    rest = b""
    while piece := await answer.piece():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
    yield rest


def _choice(choice: Any) -> Choice:
    return Choice(
        choice["index"],
        {name: value for name, value in choice["message"].items() if value is not None or name == "content"},
        choice.get("finish_reason") or "",
        (),
        (),
        (),
        token_logprobs=_token_logprobs(choice),
    )


def _token_logprobs(choice: Any) -> list[TokenLogprob]:
    told = (choice.get("logprobs") or {}).get("content") or ()
    return [
        TokenLogprob(
            token["token"],
            token["logprob"],
            [(other["token"], other["logprob"]) for other in token.get("top_logprobs") or ()],
        )
        for token in told
    ]


def _usage(body: Any) -> Usage:
    told = body.get("usage") or {}
    return Usage(told.get("prompt_tokens") or 0, told.get("completion_tokens") or 0)


def _message(body: bytes) -> str:
    """What the server says is wrong."""
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return body[:500].decode(errors="replace")
