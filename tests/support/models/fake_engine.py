"""An engine without a model: what the last message says is what it does."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

from al_ray.actors.line import OnLine
from al_ray.errors import BadRequestError, ContextLengthError, EngineUnavailableError
from al_ray.types import (
    JSON,
    ChatDelta,
    ChatReply,
    ChatRequest,
    Choice,
    CompletionRequest,
    Lineage,
    LineageOutcome,
    ModelRequest,
    TokenLogprob,
    VersionSpan,
)

TOO_LONG = (
    "messages: This model's maximum context length is 400 tokens. However, your prompt contains at least 401 "
    "input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the "
    "input prompt. (parameter=input_tokens, value=401)"
)
"""A real engine's words, to the letter: there are clients that know a prompt that is too long by them."""
ERRORS = {
    "too long": ContextLengthError(TOO_LONG),
    "bad": BadRequestError("messages: nobody can render them"),
    "bug": ZeroDivisionError("a bug"),
}
_FREE = (None, "none")
"""What a real engine lets a call choose that offers no tools."""


class FakeEngine(OnLine):
    """Answers every call with its own name, or with a call of the first tool it is offered, whose arguments
    are an ``x``, or ``input`` where the tool has that; one that wants a format with an object.

    Content that orders something else: a key of ``ERRORS``; ``wait`` (for ``release``) and ``wait after a
    piece``; ``die``, ``die NAME`` and ``die NAME after a piece``; ``unavailable NAME``; ``think``; ``long``
    and ``stop``, for those ends. NAME is the engine's that obeys.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin()

    def _begin(self) -> None:
        self._released = asyncio.Event()
        self._requests: list[ChatRequest] = []
        self._remembered: list[tuple[ModelRequest, ChatReply]] = []
        self._cancelled = 0

    async def chat(self, request: ModelRequest) -> ChatReply:
        await self._obey(request)
        choices = [self._choice(request, index) for index in range(request.sampling.n)]
        return ChatReply([1, 2, 3], choices, Lineage(LineageOutcome.CONTINUED, "earlier/0", 2))

    async def stream(self, request: ModelRequest) -> AsyncIterator[ChatDelta | ChatReply]:
        reply = await self.chat(request)
        for choice in reply.choices:
            yield ChatDelta(choice.index, {"role": "assistant", "content": ""})
            if _order(request) == f"die {self._name} after a piece":
                await asyncio.sleep(0.2)
                os.kill(os.getpid(), signal.SIGKILL)
            for piece in choice.message.get("reasoning", ""):
                yield ChatDelta(choice.index, {"reasoning": piece}, 1)
            for call in choice.message.get("tool_calls", ()):
                whole = call["function"]["arguments"]
                for arguments in ("", whole[:3], whole[3:]):
                    told = {"index": 0, "function": {"arguments": arguments}}
                    if not arguments:
                        told = {"index": 0, **call, "function": call["function"] | {"arguments": ""}}
                    yield ChatDelta(choice.index, {"tool_calls": [told]}, 1)
            for place, piece in enumerate(choice.message["content"] or ""):
                yield ChatDelta(choice.index, {"content": piece}, 1, choice.token_logprobs[place : place + 1])
                if _order(request) == "wait after a piece":
                    await self._wait()
        yield reply

    async def remember(self, request: ModelRequest, reply: ChatReply) -> None:
        self._remembered.append((request, reply))

    async def remembered(self) -> list[tuple[ModelRequest, ChatReply]]:
        """Every call that it was told of."""
        return self._remembered

    async def render(self, messages: Any, tools: Any, add_generation_prompt: bool) -> list[int]:
        return list(range(10 * len(messages) + len(tools or ()) + add_generation_prompt))

    async def begin_anew(self) -> None:
        """Nobody has asked anything."""
        self._released.set()
        self._begin()

    async def release(self) -> None:
        """Lets the calls go on that wait."""
        self._released.set()

    async def requests(self) -> list[ModelRequest]:
        """Every call it was asked."""
        return self._requests

    async def cancelled(self) -> int:
        """How many calls were cancelled."""
        return self._cancelled

    async def _obey(self, request: ModelRequest) -> None:
        self._requests.append(request)
        order = _order(request)
        if order in ERRORS:
            raise ERRORS[order]
        tools = request.tools or () if isinstance(request, ChatRequest) else ()
        if any("name" not in tool.get("function", {}) for tool in tools):
            raise BadRequestError("tools: each has a function, and that a name")
        if isinstance(request, ChatRequest) and request.tools is None and request.tool_choice not in _FREE:
            raise BadRequestError("When using `tool_choice`, `tools` must be set. (parameter=tool_choice)")
        if order == f"unavailable {self._name}":
            raise EngineUnavailableError("vLLM gave it up")
        if order in ("die", f"die {self._name}"):
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "wait":
            await self._wait()

    async def _wait(self) -> None:
        try:
            await self._released.wait()
        except asyncio.CancelledError:
            self._cancelled += 1
            raise

    def _choice(self, request: ModelRequest, index: int) -> Choice:
        message: dict[str, JSON] = {"role": "assistant", "content": f"{self._name}{index}"}
        reason = {"long": "length"}.get(_order(request), "stop")
        if _order(request) == "think":
            message["reasoning"] = "hm"
        if isinstance(request, ChatRequest) and request.response_format:
            message["content"] = '{"ok": true}'
        if isinstance(request, ChatRequest) and request.tools and request.tool_choice != "none":
            tool = request.tools[0]["function"]
            takes_text = "input" in (tool.get("parameters") or {}).get("properties", ())
            arguments = '{"input": "so \\"it\\" is"}' if takes_text else '{"x": 1}'
            function = {"name": tool["name"], "arguments": arguments}
            call = {"id": "call-1", "type": "function", "function": function}
            message |= {"content": None, "tool_calls": [call]}
            reason = "tool_calls"
        told = [TokenLogprob(text, -0.5, [(text, -0.5), ("z", -1.0)]) for text in message["content"] or ""]
        return Choice(
            index,
            message,
            reason,
            [7, 8 + index],
            [-0.5, -1.5],
            [VersionSpan(3, 0, 2)],
            stop="x" if _order(request) == "stop" else None,
            token_logprobs=() if request.top_logprobs is None else told,
        )


def _order(request: ModelRequest) -> JSON:
    if isinstance(request, CompletionRequest):
        return request.prompt if isinstance(request.prompt, str) else ""
    content = request.messages[-1].get("content")
    return content if isinstance(content, str) else ""
