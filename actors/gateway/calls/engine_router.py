"""Which engine answers a call, and what happens when it dies over it.

While no engine is admitted, calls wait. A call whose engine dies is asked again of another one,
from its prompt, unless a part of the answer is already with the agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import ray
from ray.exceptions import ObjectLostError, RayActorError

from al_ray.actors.gateway.calls.call import Call
from al_ray.actors.gateway.dialects.core import Message
from al_ray.actors.gateway.recent import Recent
from al_ray.actors.ray_errors import unwrapped
from al_ray.errors import EngineUnavailableError
from al_ray.types import ChatDelta, ChatReply

ROLLOUTS_REMEMBERED: Final = 10_000
"""Far more than are ever under way at once."""

_GONE: Final = (RayActorError, ObjectLostError, EngineUnavailableError)
"""An answer can be lost with its engine's node after it was given: large ones stay there."""

_log = logging.getLogger(__name__)


class _Admitted:
    """An engine and how many calls it has under way."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.load = 0

    @contextmanager
    def busy(self) -> Iterator[Any]:
        self.load += 1
        try:
            yield self.engine
        finally:
            self.load -= 1


class EngineRouter:
    """Sends calls to the engines that ``admit`` was last given."""

    def __init__(self) -> None:
        self._admitted: deque[_Admitted] = deque()
        self._any = asyncio.Event()
        self._homes: Recent[str, _Admitted] = Recent(ROLLOUTS_REMEMBERED)

    def admit(self, engines: Sequence[Any]) -> None:
        """Send calls to these engines from now on; with none, calls wait."""
        known = {admitted.engine: admitted for admitted in self._admitted}
        self._admitted = deque(known.get(engine) or _Admitted(engine) for engine in engines)
        if engines:
            self._any.set()
        else:
            self._any.clear()

    async def chat(self, call: Call) -> ChatReply:
        """The answer to a call. One that is cancelled stops its engine's work on it."""
        return await self._ask(call.attempt.rollout_id, "chat", call.request)

    async def render(
        self, rollout_id: str, messages: Sequence[Message], tools: Sequence[Message] | None
    ) -> Sequence[int]:
        """The tokens of the prompt that a call with these messages has."""
        return await self._ask(rollout_id, "render", messages, tools, True)

    async def _ask(self, rollout_id: str, method: str, *arguments: Any) -> Any:
        while True:
            admitted = await self._pick(rollout_id)
            with admitted.busy() as engine:
                reference = getattr(engine, method).remote(*arguments)
                try:
                    with unwrapped():
                        return await reference
                except asyncio.CancelledError:
                    ray.cancel(reference)
                    raise
                except _GONE as error:
                    self._drop(admitted, error)

    async def stream(self, call: Call) -> AsyncGenerator[ChatDelta | ChatReply, None]:
        """The answer piece by piece, the whole reply last; close it to stop the engine's work on it."""
        while True:
            admitted = await self._pick(call.attempt.rollout_id)
            started = False
            with admitted.busy() as engine:
                pieces = engine.stream.options(num_returns="streaming").remote(call.request)
                try:
                    with unwrapped():
                        async for reference in pieces:
                            piece = await reference
                            started = True
                            yield piece
                    return
                except (asyncio.CancelledError, GeneratorExit):
                    ray.cancel(pieces)
                    raise
                except _GONE as error:
                    self._drop(admitted, error)
                    if started:
                        raise EngineUnavailableError(
                            "the engine died in the middle of its answer; ask again"
                        ) from error

    async def _pick(self, rollout_id: str) -> _Admitted:
        """The engine that has the rollout's prefix in its cache, else the least loaded one."""
        while not self._admitted:
            await self._any.wait()
        home = self._homes.get(rollout_id)
        if home is None or home not in self._admitted:
            home = min(self._admitted, key=lambda admitted: admitted.load)
            self._admitted.rotate(-1)  # so that the equally loaded take turns
        self._homes[rollout_id] = home
        return home

    def _drop(self, admitted: _Admitted, error: Exception) -> None:
        if admitted not in self._admitted:
            return
        _log.warning("engine %s is gone; its calls are asked of another engine: %s", admitted.engine, error)
        self._admitted.remove(admitted)
        if not self._admitted:
            self._any.clear()
