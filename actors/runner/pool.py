"""The runner pool: keeps the runners of a run alive, from the driver."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

import ray
from ray.exceptions import RayError

from al_ray.actors.agent.inherited import overridden
from al_ray.actors.keepers import EXTRA_SECONDS, Keepers
from al_ray.actors.ray_errors import DIED, at_its_start, in_brief, unwrapped
from al_ray.actors.runner.actor import RUNNER_OPTIONS, Runner
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.actors.store.actor import LEASE_SECONDS
from al_ray.actors.waiting import answered, while_answering
from al_ray.errors import UnresponsiveError
from al_ray.machines.placement import Seat, SharedSeat, draining, ends_soon, time_left

_Told = TypeVar("_Told")

_log = logging.getLogger(__name__)

_START_SECONDS: Final = 600.0
"""In which one starts, and then in which it has imported all that its agent needs."""
_LOOK_SECONDS: Final = 2.0
"""Between two looks at what Ray has room for, and at which nodes it takes away."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """Of one runner at a time."""

    spec: RunnerSpec
    seat: Seat
    extra: bool
    """Nobody waits for it: it comes where and when there is room."""


class RunnerPool:
    """Runs ``count`` runners where ``options`` puts them, and one in each seat of ``more`` as soon as that is
    granted. One that dies is replaced and its attempts are lost at once; one of ``more`` whose node is to go
    ends its attempts before."""

    def __init__(
        self,
        spec: RunnerSpec,
        count: int,
        store: Any,
        options: Mapping[str, Any],
        more: Sequence[Seat] = (),
    ) -> None:
        self._slots = [
            _Slot(replace(spec, name=f"{spec.name}-{index}"), seat, extra=index >= count)
            for index, seat in enumerate([*[SharedSeat(options)] * count, *more])
        ]
        self._store = store
        self._runners: dict[str, Any] = {}
        self._keepers = Keepers()

    def start(self) -> None:
        """Start all runners."""
        if names := overridden(self._slots[0].spec.agent, os.environ):
            _log.warning("not given to agents, whose spans go to the run: %s", ", ".join(names))
        self._keepers.start(self._keep(slot) for slot in self._slots)

    def failure(self) -> BaseException | None:
        """What ended a runner for good (an agent that cannot be imported, say), if anything did."""
        return self._keepers.failure()

    async def stop(self) -> None:
        """End all runners; attempts under way are abandoned."""
        await self._keepers.stop()
        for runner in self._runners.values():
            ray.kill(runner)

    async def _keep(self, slot: _Slot) -> None:
        """Replace the runner whenever its process ends. Its own errors are for good, and raised, unless
        nobody waits for it."""
        while True:
            while not await _told(slot.seat.granted):
                await asyncio.sleep(_LOOK_SECONDS)
            # A name of its own: what the store still does for the dead one is not done for this one.
            named = replace(slot.spec, name=f"{slot.spec.name}-{uuid.uuid4().hex[:8]}")
            options = {**RUNNER_OPTIONS, **slot.seat.options}
            runner = ray.remote(Runner).options(**options).remote(named, self._store)
            self._runners[slot.spec.name] = runner
            pause = 0.0
            try:
                why = await (_watch_with_its_node(runner, named.name, slot) if slot.extra else _watch(runner))
            except Exception as error:
                by_chance = isinstance(error, (*DIED, UnresponsiveError)) and not at_its_start(error)
                if not (by_chance or slot.extra):
                    raise
                why = str(error) if by_chance else in_brief(error)
                pause = 0.0 if by_chance else EXTRA_SECONDS
            _log.warning("runner %s is replaced: %s", named.name, why)
            ray.kill(runner)
            await self._store.lose.remote(named.name)
            await asyncio.sleep(pause)


async def _watch(runner: Any) -> str:
    """Why it gives itself up. Raises what else ends it."""
    # There is no lease before it is there: it may have to wait for a node.
    await answered(runner.ping.remote(), _START_SECONDS, "it, which starts,")
    # By itself: beside an import that hangs it would answer every ping.
    with unwrapped():
        await answered(runner.prepare.remote(), _START_SECONDS, "it, which imports its agent,")
    who = "it, of whose event loop an agent may not let go,"
    return await while_answering(_run(runner), runner.ping.remote, LEASE_SECONDS, LEASE_SECONDS, who)


async def _watch_with_its_node(runner: Any, name: str, slot: _Slot) -> str:
    """Likewise; also that its node is to go, or its room is wanted. The next is to be elsewhere then."""
    watching = asyncio.create_task(_watch(runner))
    try:
        node = await answered(runner.node.remote(), _START_SECONDS, "it, which starts,")
        while not watching.done():
            if told := await _told(partial(_why_to_leave, slot.seat, node)):
                why, until = told
                _log.warning("runner %s claims no more: %s", name, why)
                try:
                    return await _leave(runner, watching, until)
                finally:
                    slot.seat.release()
            await asyncio.wait({watching}, timeout=_LOOK_SECONDS)
        return await watching
    finally:
        watching.cancel()


async def _told(ask: Callable[[], _Told]) -> _Told | None:
    """What Ray says; None if it does not answer. It is asked again soon, and no runner is worse for it."""
    try:
        return await asyncio.to_thread(ask)
    except RayError as error:
        _log.warning("Ray does not tell where runners may be; it is asked again: %s", error)
        return None


def _why_to_leave(seat: Seat, node: str) -> tuple[str, float] | None:
    """And when it must have left, if it is to."""
    if (until := draining().get(node)) is not None:
        return f"Ray takes its node away {time_left(until)}", until
    return ("learners or engines have no room", math.inf) if seat.wanted() else None


async def _leave(runner: Any, watching: asyncio.Task[str], until: float) -> str:
    """Let it end its attempts, as far as they end in time."""
    await answered(runner.leave.remote(), LEASE_SECONDS, "it, which is to leave,")
    while not watching.done():
        if ends_soon(until):
            return "its node ends"
        await asyncio.wait({watching}, timeout=_LOOK_SECONDS)
    return await watching


async def _run(runner: Any) -> str:
    with unwrapped():
        return await runner.run.remote()
