"""An engine without a model: what the last message says is what it does."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

from al_ray.errors import BadRequestError, ContextLengthError, EngineUnavailableError
from al_ray.types import (
    JSON,
    ChatDelta,
    ChatReply,
    ChatRequest,
    Choice,
    Lineage,
    LineageOutcome,
    VersionSpan,
)

ERRORS = {
    "too long": ContextLengthError("messages: the prompt has 999 tokens"),
    "bad": BadRequestError("messages: nobody can render them"),
    "bug": ZeroDivisionError("a bug"),
}


class FakeEngine:
    """Answers every call with its own name, or with a call of the first tool it is offered.

    Content that orders something else: a key of ``ERRORS``; ``wait`` (for ``release``); ``die NAME`` and
    ``die NAME after a piece``; ``unavailable NAME``. NAME is the engine's that obeys.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._released = asyncio.Event()
        self._requests: list[ChatRequest] = []
        self._cancelled = 0

    async def chat(self, request: ChatRequest) -> ChatReply:
        await self._obey(request)
        choices = [self._choice(request, index) for index in range(request.sampling.n)]
        return ChatReply([1, 2, 3], choices, Lineage(LineageOutcome.CONTINUED, "earlier/0", 2))

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatDelta | ChatReply]:
        reply = await self.chat(request)
        for choice in reply.choices:
            yield ChatDelta(choice.index, {"role": "assistant", "content": ""})
            if request.messages[-1]["content"] == f"die {self._name} after a piece":
                await asyncio.sleep(0.2)
                os.kill(os.getpid(), signal.SIGKILL)
            for call in choice.message.get("tool_calls", ()):
                yield ChatDelta(choice.index, {"tool_calls": [{"index": 0, **call}]})
            for piece in choice.message["content"] or "":
                yield ChatDelta(choice.index, {"content": piece})
        yield reply

    async def release(self) -> None:
        """Lets the calls go on that wait."""
        self._released.set()

    async def requests(self) -> list[ChatRequest]:
        """Every call it was asked."""
        return self._requests

    async def cancelled(self) -> int:
        """How many calls were cancelled."""
        return self._cancelled

    async def _obey(self, request: ChatRequest) -> None:
        self._requests.append(request)
        order = request.messages[-1]["content"]
        if order in ERRORS:
            raise ERRORS[order]
        if order == f"unavailable {self._name}":
            raise EngineUnavailableError("vLLM gave it up")
        if order == f"die {self._name}":
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "wait":
            try:
                await self._released.wait()
            except asyncio.CancelledError:
                self._cancelled += 1
                raise

    def _choice(self, request: ChatRequest, index: int) -> Choice:
        message: dict[str, JSON] = {"role": "assistant", "content": f"{self._name}{index}"}
        if request.tools and request.tool_choice != "none":
            name = request.tools[0]["function"]["name"]
            function = {"name": name, "arguments": '{"x": 1}'}
            message |= {
                "content": None,
                "tool_calls": [{"id": "call-1", "type": "function", "function": function}],
            }
        reason = "tool_calls" if "tool_calls" in message else "stop"
        return Choice(index, message, reason, [7, 8 + index], [-0.5, -1.5], [VersionSpan(3, 0, 2)])
