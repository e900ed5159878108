"""An engine in the gateway's own process, where one task is tried by hand: no actor, no Ray.

It answers as the engines of a run do; nobody stands in for it if it dies.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from al_ray.actors.gateway.calls.call import Call, Pieces
from al_ray.traces.messages import Message
from al_ray.types import ChatDelta, ChatReply, ModelRequest, RolloutRequest


class Engine(Protocol):
    """What is asked of ``al_ray.actors.engine.actor.Engine``."""

    async def chat(self, request: ModelRequest, /) -> ChatReply: ...

    def stream(self, request: ModelRequest, /) -> AsyncGenerator[ChatDelta | ChatReply, None]: ...

    async def remember(self, request: ModelRequest, reply: ChatReply, /) -> None: ...

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, add_generation_prompt: bool, /
    ) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class OwnEngine:
    """Called in the event loop in which the engine was started."""

    engine: Engine

    async def chat(self, call: Call) -> ChatReply:
        return await self.engine.chat(call.request)

    async def stream(self, call: Call) -> AsyncGenerator[Pieces, None]:
        async with aclosing(self.engine.stream(call.request)) as answer:
            async for piece in answer:
                yield [piece]

    async def remember(self, call: Call, reply: ChatReply) -> None:
        await self.engine.remember(call.request, reply)

    async def render(
        self, rollout: RolloutRequest, messages: Sequence[Message], tools: Sequence[Message] | None
    ) -> Sequence[int]:
        return await self.engine.render(messages, tools, True)
