"""The engines of a run, as the driver holds them: started, updated and replaced together.

An engine is *admitted*, that is, may be given calls, while it holds the weights of the last update.
One that fails to load an update is ended, since its weights are then neither old nor new; its calls
fail over to other engines, and ``replace_dead`` starts a new one in its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle

from al_ray.actors.engine.actor import Engine
from al_ray.actors.engine.spec import EngineSpec, engine_environment
from al_ray.actors.weights.update import WeightUpdate
from al_ray.errors import EngineUnavailableError

_log = logging.getLogger(__name__)

CALLS_AT_ONCE = 1000
"""Calls an engine actor accepts at once; vLLM queues what exceeds ``max_running``."""


@dataclass(slots=True)
class _Slot:
    """A place for an engine, with the actor options it is created with."""

    options: Mapping[str, Any]
    engine: ActorHandle | None = None
    admitted: bool = False


class EnginePool:
    """One engine for each of ``options``: the resources and scheduling strategy of its actor."""

    def __init__(self, spec: EngineSpec, options: Sequence[Mapping[str, Any]]) -> None:
        self._spec = spec
        self.tensor_parallel = spec.tensor_parallel
        environment = {"env_vars": engine_environment(spec)}
        self._slots = [
            _Slot({**chosen, "max_concurrency": CALLS_AT_ONCE, "runtime_env": environment})
            for chosen in options
        ]
        self._update: WeightUpdate | None = None
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Starts all engines at once and admits them; ends them all if one cannot start."""
        async with self._changing:
            try:
                await self._fill_empty()
            except BaseException:
                _end(*self._slots)
                raise

    def engines(self) -> list[ActorHandle]:
        """The engines that were alive when last looked at: whom the learner connects to."""
        return [slot.engine for slot in self._slots if slot.engine is not None]

    def admitted(self) -> list[ActorHandle]:
        """The engines that may be given calls."""
        return [slot.engine for slot in self._slots if slot.engine is not None and slot.admitted]

    async def update(self, update: WeightUpdate, send: Callable[[], Awaitable[object]] | None = None) -> None:
        """Gives every engine the weights of ``update``, holding its calls meanwhile, and admits it.

        ``send`` makes all learner ranks send, where the update is not stored. Raises
        ``EngineUnavailableError`` when no engine is left; the current weights then stay what they were.
        """
        if update.stored == (send is not None):
            raise ValueError(f"policy version {update.version}: give send if and only if it is not stored")
        async with self._changing:
            slots = self._occupied()
            try:
                slots = await _each(slots, "pause")
                if send is None:
                    slots = await _each(slots, "load", update)
                else:
                    await send()
                    slots = await _each(slots, "admit", update.version)
                slots = await _each(slots, "resume")
            except BaseException:
                _end(*slots)
                raise
            if not slots:
                raise EngineUnavailableError(f"policy version {update.version}: no engine could load it")
            for slot in slots:
                slot.admitted = True
            self._update = update

    async def replace_dead(self) -> list[ActorHandle]:
        """Starts an engine in place of each dead one; returns the new ones.

        They hold the current weights and are admitted. Only where weights are sent rather than
        stored do they still hold version 0: connect the learner to ``engines()`` again, and update.
        """
        async with self._changing:
            await _each(self._occupied(), "ping")
            return [slot.engine for slot in await self._fill_empty() if slot.engine is not None]

    async def shutdown(self) -> None:
        """Ends every engine."""
        async with self._changing:
            await _each(self._occupied(), "shutdown")
            _end(*self._slots)

    def _occupied(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.engine is not None]

    async def _fill_empty(self) -> list[_Slot]:
        empty = [slot for slot in self._slots if slot.engine is None]
        outcomes = await asyncio.gather(*(self._fill(slot) for slot in empty), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        return empty

    async def _fill(self, slot: _Slot) -> None:
        engine = ray.remote(Engine).options(**slot.options).remote(self._spec)
        slot.engine = engine
        try:
            await engine.start.remote()
            if self._update is not None and self._update.stored:
                await engine.pause.remote()
                await engine.load.remote(self._update)
                await engine.resume.remote()
            slot.admitted = self._update is None or self._update.stored
        except BaseException:
            _end(slot)
            raise


async def _each(slots: Sequence[_Slot], method: str, *args: object) -> list[_Slot]:
    """Calls ``method`` on all engines at once and ends those that raise; returns the other slots."""
    calls = (getattr(slot.engine, method).remote(*args) for slot in slots)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    well = []
    for slot, outcome in zip(slots, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            _log.warning("an engine failed to %s and is ended: %s", method, outcome)
            _end(slot)
        else:
            well.append(slot)
    return well


def _end(*slots: _Slot) -> None:
    for slot in slots:
        if slot.engine is not None:
            ray.kill(slot.engine)
        slot.engine = None
        slot.admitted = False
