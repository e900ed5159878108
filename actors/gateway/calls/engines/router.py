"""Which engine answers a call, and what happens when it dies over it.

While no engine is admitted, calls wait. A call whose engine dies is asked again of another one,
from its prompt, unless a part of the answer is already with the agent, or it is what engines die of.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from al_ray.actors.gateway.calls.call import Call, Pieces
from al_ray.actors.gateway.calls.engines.absences import Absences
from al_ray.actors.gateway.calls.engines.deadly import DeadlyQuestions, Question
from al_ray.actors.line import Line, LineLostError
from al_ray.actors.ray_errors import DIED
from al_ray.actors.recent import Recent
from al_ray.errors import EngineUnavailableError
from al_ray.traces.messages import Message
from al_ray.types import ChatReply, RolloutRequest

_REMEMBERED: Final = 20_000
"""Rollouts and groups: far more than are ever under way at once."""
_SPARE_CALLS: Final = 8
"""With few calls on all engines, none has many more."""

_GONE: Final = (*DIED, LineLostError, EngineUnavailableError)

_log = logging.getLogger(__name__)


class _Admitted:
    """An engine and what it is asked at the moment."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.asked: set[Question] = set()
        self.gone = False
        self._line: asyncio.Task[Line] | None = None

    async def line(self) -> Line:
        """The way to it, made when it is first asked and when it was lost. Raises what is in ``_GONE``."""
        if self._line is None or (self._line.done() and (self._line.exception() or self._line.result().lost)):
            self._line = asyncio.create_task(Line.to(self.engine))
        return await asyncio.shield(self._line)

    async def is_there(self) -> bool:
        """Whether it lives, when its line was lost."""
        try:
            await self.line()
        except _GONE:
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Asker:
    """Whose calls have a home."""

    rollout: str
    group: str

    @classmethod
    def of(cls, call: Call) -> _Asker:
        return cls(call.attempt.rollout_id, call.group)


class EngineRouter:
    """Sends calls to the engines that ``admit`` was last given."""

    def __init__(self) -> None:
        self._admitted: deque[_Admitted] = deque()
        self._any = asyncio.Event()
        self.absences = Absences()
        self._homes: Recent[str, _Admitted] = Recent(_REMEMBERED)
        self._deadly = DeadlyQuestions()

    def admit(self, engines: Sequence[Any]) -> None:
        """Send calls to these engines from now on; with none, calls wait."""
        known = {admitted.engine: admitted for admitted in self._admitted}
        self._admitted = deque(known.get(engine) or _Admitted(engine) for engine in engines)
        if engines:
            self._any.set()
            self.absences.end()
        else:
            self._any.clear()

    async def chat(self, call: Call) -> ChatReply:
        """The answer to a call. One that is cancelled stops its engine's work on it."""
        return await self._ask(_Asker.of(call), "chat", call.request)

    async def remember(self, call: Call, reply: ChatReply) -> None:
        """Let the rollout's engine know of a call that it did not answer, as if it had."""
        await self._ask(_Asker.of(call), "remember", call.request, reply)

    async def render(
        self, rollout: RolloutRequest, messages: Sequence[Message], tools: Sequence[Message] | None
    ) -> Sequence[int]:
        """The tokens of the prompt that a call with these messages has."""
        return await self._ask(_Asker(rollout.id, rollout.group), "render", messages, tools, True)

    async def _ask(self, asker: _Asker, method: str, *arguments: Any) -> Any:
        question = Question(arguments[0])
        while True:
            async with self._engine(asker, question) as engine:
                return await engine.ask(method, *arguments)

    async def stream(self, call: Call) -> AsyncGenerator[Pieces, None]:
        """The answer as its pieces come, the whole reply last; close it to stop the engine's work on it."""
        question = Question(call.request)
        started = False
        while not started:
            async with self._engine(_Asker.of(call), question) as engine:
                async with aclosing(engine.items("stream", call.request)) as answer:
                    async for pieces in answer:
                        started = True
                        yield pieces
                return
        raise EngineUnavailableError("the engine died in the middle of its answer; ask again")

    @asynccontextmanager
    async def _engine(self, asker: _Asker, question: Question) -> AsyncIterator[Line]:
        """The line to an engine; what is raised because that is gone ends here."""
        async with self._deadly.turn(question):
            self._deadly.refuse(question)
            admitted, line = await self._reach(asker)
            admitted.asked.add(question)
            try:
                yield line
            except _GONE as error:
                if not (isinstance(error, LineLostError) and await admitted.is_there()):
                    self._drop(admitted, error)
            finally:
                admitted.asked.remove(question)

    async def _reach(self, asker: _Asker) -> tuple[_Admitted, Line]:
        """An engine and the line to it."""
        while True:
            admitted = await self._pick(asker)
            try:
                return admitted, await admitted.line()
            except _GONE as error:
                self._drop(admitted, error)

    async def _pick(self, asker: _Asker) -> _Admitted:
        """The rollout's engine, which knows the tokens of its earlier calls; for the first that of its group,
        which has the task in its cache, unless that has many more calls than another.
        ``benchmarks.calls.routing`` compares."""
        while not self._admitted:
            self.absences.begin()
            await self._any.wait()
        if (own := self._home(asker.rollout)) is not None:
            return own
        least = min(self._admitted, key=lambda admitted: len(admitted.asked))
        self._admitted.rotate(-1)  # so that the equally loaded take turns
        self._homes[asker.group] = home = self._home(asker.group) or least
        most = 2 * len(least.asked) + _SPARE_CALLS
        self._homes[asker.rollout] = own = home if len(home.asked) <= most else least
        return own

    def _home(self, name: str) -> _Admitted | None:
        home = self._homes.get(name)
        return home if home in self._admitted else None

    def _drop(self, admitted: _Admitted, error: Exception) -> None:
        if admitted.gone:
            return
        admitted.gone = True
        _log.warning("engine %s is gone; its calls are asked of another engine: %s", admitted.engine, error)
        if admitted in self._admitted:  # else it was ended on purpose, with what it was still at
            self._deadly.engine_died(admitted.asked)
            self._admitted.remove(admitted)
        if not self._admitted:
            self._any.clear()
