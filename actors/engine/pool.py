"""The engines of a run, as the driver holds them: started, updated and kept alive together.

An engine is *admitted*, that is, may be given calls, while it holds the weights of the last update. One that
dies, does not answer in time or fails to load an update is ended: its weights may be neither old nor new. Its
calls fail over to other engines, and its keeper starts another in its place, which is admitted with the
weights of then. Whatever is waited for has an end, so no engine can keep a run waiting for good.

An engine whose node Ray is to take away is given no more calls. It ends those that it has, as far as there is
time, and is ended; the one in its place is put elsewhere, as soon as there is room.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError

from al_ray.actors.engine import leaving
from al_ray.actors.engine.actor import Engine
from al_ray.actors.engine.slot import LOST, Slot
from al_ray.actors.engine.spec import EngineSpec, engine_environment
from al_ray.actors.keepers import EXTRA_SECONDS, MAX_LOST, Keepers
from al_ray.actors.ray_errors import at_its_start, in_brief
from al_ray.actors.waiting import all_started, answered, started
from al_ray.actors.weights.update import WeightUpdate
from al_ray.errors import EngineUnavailableError, LearnerLostError, UnresponsiveError, WeightsLostError
from al_ray.machines import cluster
from al_ray.machines.placement import Seat

_log = logging.getLogger(__name__)

CALLS_AT_ONCE: Final = 1000
"""Calls an engine actor accepts at once; vLLM queues what exceeds ``max_running``."""
_PROBE_SECONDS: Final = 2.0
"""Between two looks at an engine."""
ANSWER_SECONDS: Final = 60.0
"""In which an engine answers that need not load anything: it does between two steps of its model."""
_LOADED_PER_SECOND: Final = 50 * 2**20
"""Bytes of weights that an engine loads at least, over a slow network."""
_MEETING_SECONDS: Final = 300.0
"""In which learners connect to engines: they import vLLM first."""
_LEAVE_SECONDS: Final = 60.0
"""In which they end what they do with engines, where whoever asked for it is cancelled."""
_START_SECONDS: Final = 3600.0
_ALIVE_EVERY: Final = 5.0
_STARTING_SECONDS: Final = 300.0
"""In which one that starts tells that it lives: it imports much, which may keep it from answering."""
_SHUTDOWN_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.1
_ROOM_SECONDS: Final = 1.0
"""Between two looks for room."""
_VERDICT_SECONDS: Final = 20.0
"""By which Ray misses a node later than the engines on it are missed."""


class EnginePool:
    """One engine for each of ``seats``, an actor of ``engine_class``, and one for each of ``more`` as long as
    there is room for it."""

    def __init__(
        self,
        spec: EngineSpec,
        seats: Sequence[Seat],
        more: Sequence[Seat] = (),
        engine_class: type = Engine,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._spec = spec
        self._engine_class = engine_class
        self._answer_seconds = answer_seconds
        self._options: Mapping[str, Any] = {
            "max_concurrency": CALLS_AT_ONCE,
            "runtime_env": {"env_vars": engine_environment(spec)},
        }
        self._slots = [
            Slot(number, seat, extra=number >= len(seats)) for number, seat in enumerate([*seats, *more])
        ]
        self._update: WeightUpdate | None = None
        self._gone: WeightUpdate | None = None
        """One whose weights were stored, and are gone with their learner."""
        self._changing = asyncio.Lock()
        """Held while weights change: an engine that comes up is admitted before or after, not meanwhile."""
        self._lost: list[str] = []
        """The nodes of the engines that died since the weights changed last; empty: it did not come up."""
        self._keepers = Keepers()

    async def start(self) -> None:
        """Start the engines of ``seats`` at once, admit them, and keep all alive from now on; end them all if
        one cannot start. One that is lost as it starts is followed by another, as far as that helps."""
        try:
            await all_started([self._fill_first(slot) for slot in self._slots if not slot.extra])
        except BaseException:
            self._end()
            raise
        self._keepers.start(self._keep(slot) for slot in self._slots)

    def failure(self) -> BaseException | None:
        """Why an engine could not be kept alive, if that happened."""
        return self._keepers.failure()

    def engines(self) -> list[ActorHandle]:
        """The engines that were alive when last looked at."""
        return [slot.engine for slot in self._slots if slot.engine is not None]

    def admitted(self) -> list[ActorHandle]:
        """The engines that may be given calls."""
        return [slot.engine for slot in self._slots if slot.engine is not None and slot.answers]

    def unserved(self) -> bool:
        """Whether an engine waits to be sent the weights, or for others in the place of those that are gone
        with their learner."""
        gone = self._gone is not None and self._gone is self._update
        return gone or any(slot.engine is not None and not slot.admitted for slot in self._slots)

    def spare(self, draining: Mapping[str, float]) -> None:
        """Engines on these nodes, which are to go, are not ``admitted`` any more; to be told to the gateways
        before ``retire``."""
        leaving.spare(self._slots, draining)

    async def retire(self) -> None:
        """End the engines that were spared, as far as they have ended their calls; each when its time is
        over."""
        await leaving.retire(self._slots, self._changing)

    async def one(self) -> ActorHandle:
        """An engine that may be given calls, waited for while none is there. Raises why none can be kept."""
        while not (admitted := self.admitted()):
            await self._look()
        return admitted[0]

    async def meet(
        self, connect: Callable[[Sequence[ActorHandle], int], Awaitable[object]]
    ) -> Sequence[ActorHandle]:
        """Let the learners connect to the engines that there are, before the next ``update`` that is sent;
        returns these. ``connect`` is told how many devices each has. Where it fails, they are ended: they may
        wait for a learner for good. Raises ``LearnerLostError`` when it takes too long."""
        async with self._changing:  # an engine that waits for learners answers nothing else
            engines = self.engines()
            try:
                connecting = connect(engines, self._spec.tensor_parallel)
                await _of_learners(connecting, _MEETING_SECONDS, "as they meet")
            except BaseException:
                for slot in self._slots:
                    if slot.engine in engines:
                        slot.dismiss()
                raise
        return engines

    async def update(
        self,
        update: WeightUpdate,
        send: Callable[[], Awaitable[object]] | None = None,
        sent_to: Sequence[ActorHandle] | None = None,
    ) -> None:
        """Give every engine the weights of ``update``, holding its calls meanwhile, and admit it.

        ``send`` makes all learner ranks send, where the update is not stored; those that have come since
        ``meet`` returned ``sent_to`` are not reached, and not admitted. When all engines are lost on
        the way, waits for those that come in their place, which hold the weights if they are stored. Raises
        ``EngineUnavailableError`` when live engines cannot load the weights, and the current ones stay; or
        when no engine can be kept alive. Raises ``LearnerLostError`` when the weights are gone before an
        engine has them.
        """
        if update.stored == (send is not None):
            raise ValueError(f"policy version {update.version}: give send if and only if it is not stored")
        async with self._changing:
            slots = [slot for slot in self._slots if slot.engine is not None]
            if sent_to is not None:
                for slot in slots:
                    slot.admitted &= slot.engine in sent_to
                slots = [slot for slot in slots if slot.engine in sent_to]
            refused: list[BaseException] = []
            try:
                slots = await self._each(slots, "pause")
                if send is None:
                    slots = await self._each(slots, "load", update, refused=refused)
                else:
                    sending = f"sending policy version {update.version}"
                    await _of_learners(send(), self._loading_seconds, sending)
                    slots = await self._each(slots, "admit", update.version)
                slots = await self._each(slots, "resume")
            except BaseException:
                for slot in slots:
                    slot.dismiss()
                raise
            if refused and not slots:
                if lost := next(filter(_of_weights, refused), None):
                    raise LearnerLostError(in_brief(lost)) from lost
                told = f"policy version {update.version}: no engine could load it"
                raise EngineUnavailableError(f"{told}: {in_brief(refused[0])}") from refused[0]
            for slot in slots:
                slot.admitted = True
            self._update = update
        while not (self.admitted() if update.stored else self.engines()):
            if self._gone is update:
                told = f"the weights of policy version {update.version} are gone with their learner"
                raise LearnerLostError(told)
            await self._look()
        self._lost.clear()

    async def shutdown(self) -> None:
        """End every engine, also those that do not answer."""
        await self._keepers.stop()
        asked = asyncio.gather(
            *(engine.shutdown.remote() for engine in self.engines()), return_exceptions=True
        )
        with suppress(UnresponsiveError):  # it is ended all the same
            await answered(asked, _SHUTDOWN_SECONDS, "an engine")
        self._end()

    async def _look(self) -> None:
        """Whoever waits for the keepers ends with them."""
        if error := self.failure():
            raise error
        await asyncio.sleep(_LOOK_SECONDS)

    def _end(self) -> None:
        for slot in self._slots:
            slot.end()

    async def _keep(self, slot: Slot) -> None:
        """Replace the slot's engine whenever it is lost. Raises ``EngineUnavailableError`` when that does not
        help. One that cannot start where another could may only be too early: what is left of that one still
        has its memory."""
        error: BaseException | None = None
        while True:
            if (engine := slot.engine) is not None:
                await asyncio.sleep(_PROBE_SECONDS)
                if self._changing.locked():  # an engine that loads weights answers nothing else
                    continue
                try:
                    await self._ask(slot, engine, "ping")
                    continue
                except LOST as lost:
                    if slot.engine is engine:
                        _log.warning("%s is replaced: %s", slot, in_brief(lost))
                        slot.end()
            if not await slot.excused():
                self._lost.append(slot.node)
            if await self._too_many_are_lost():
                version = 0 if self._update is None else self._update.version
                raise EngineUnavailableError(
                    f"{len(self._lost)} engines died since policy version {version} was admitted; "
                    f"their logs are in {cluster.log_folder()}"
                ) from error
            await self._room(slot)
            nodes = await asyncio.to_thread(cluster.node_ids)
            try:
                await self._fill(slot)
            except LOST as lost:
                error = lost
                # It may have been put on a node that was dead already.
                slot.blameless = _of_weights(lost) or not nodes <= await asyncio.to_thread(cluster.node_ids)
                _log.warning("%s did not come up: %s", slot, in_brief(lost))
                await asyncio.sleep(EXTRA_SECONDS if slot.extra else _PROBE_SECONDS)

    async def _too_many_are_lost(self) -> bool:
        """Whether it is not by chance. Of a node with many engines that is cut off, none of them answers any
        more, and Ray knows of it a little later."""
        if len(self._lost) <= MAX_LOST:
            return False
        await asyncio.sleep(_VERDICT_SECONDS)
        there = {"", *await asyncio.to_thread(cluster.node_ids)}
        self._lost[:] = [node for node in self._lost if node in there]
        return len(self._lost) > MAX_LOST

    async def _room(self, slot: Slot) -> None:
        """Wait until there is room for an engine. Raises ``EngineUnavailableError`` where no other is left,
        either, and none comes."""
        begun, told = time.monotonic(), slot.extra
        while not await asyncio.to_thread(slot.seat.granted):
            if not told:
                _log.warning("%s waits for room: no node has it", slot)
                told = True
            if slot.extra or self.engines():
                begun = time.monotonic()
            elif time.monotonic() > begun + _START_SECONDS:
                raise EngineUnavailableError(
                    f"no engine is left, and no node had room for one for {_START_SECONDS:g} s: add nodes"
                )
            await asyncio.sleep(_ROOM_SECONDS)

    async def _fill_first(self, slot: Slot) -> None:
        """Raises what keeps the engine from its start, if it can say."""
        until = time.monotonic() + _START_SECONDS
        while True:
            try:
                return await self._fill(slot)
            except LOST as lost:
                self._lost.append("")
                if _is_told(lost) or len(self._lost) > MAX_LOST or time.monotonic() > until:
                    raise
                _log.warning("%s did not come up: %s", slot, in_brief(lost))

    async def _fill(self, slot: Slot) -> None:
        """Start an engine. It is admitted with the current weights, unless these are sent, or gone: connect
        the learner to ``engines()`` again, and update."""
        options = {**self._options, **slot.seat.options}
        slot.node = ""
        engine = slot.starting = ray.remote(self._engine_class).options(**options).remote(self._spec)
        try:
            await answered(_started(engine, str(slot)), _START_SECONDS, f"{slot}, which starts,")
            slot.node = await answered(engine.node.remote(), self._answer_seconds, str(slot))
            update = self._update
            await self._load(slot, engine, update)
            async with self._changing:
                if update is not self._update:  # they changed meanwhile: no more, now
                    await self._load(slot, engine, self._update)
                slot.starting, slot.engine = None, engine
                slot.admitted = self._update is None or self._is_there(self._update)
        except BaseException:
            slot.end()
            slot.node = ""
            raise

    async def _load(self, slot: Slot, engine: ActorHandle, update: WeightUpdate | None) -> None:
        """Weights that are stored; others are sent later."""
        if update is not None and self._is_there(update):
            try:
                for method, *arguments in (("pause",), ("load", update), ("resume",)):
                    await self._ask(slot, engine, method, *arguments)
            except RayTaskError as error:
                if _of_weights(error):
                    self._gone = update
                raise

    def _is_there(self, update: WeightUpdate) -> bool:
        """Whether it can be loaded, as far as is known."""
        return update.stored and update is not self._gone

    async def _each(
        self,
        slots: Sequence[Slot],
        method: str,
        *args: object,
        refused: list[BaseException] | None = None,
    ) -> list[Slot]:
        """Call ``method`` on all engines at once and end those that fail; returns the other slots. What a
        live engine raises goes to ``refused``."""
        engines = [slot.engine for slot in slots]
        calls = (self._ask(slot, engine, method, *args) for slot, engine in zip(slots, engines, strict=True))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        well = []
        for slot, engine, outcome in zip(slots, engines, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                well.append(slot)
                continue
            _log.warning("%s failed to %s and is replaced: %s", slot, method, in_brief(outcome))
            if refused is not None and isinstance(outcome, RayTaskError) and not _of_dead_core(outcome):
                refused.append(outcome)
            if slot.engine is engine:  # else its keeper was quicker
                slot.blameless = _of_weights(outcome)
                slot.end()
        return well

    async def _ask(self, slot: Slot, engine: Any, method: str, *args: object) -> None:
        seconds = self._loading_seconds if method == "load" else self._answer_seconds
        await answered(getattr(engine, method).remote(*args), seconds, f"{slot}, asked to {method},")

    @property
    def _loading_seconds(self) -> float:
        """In which engines load weights, or are sent them."""
        return self._answer_seconds + _size(self._spec.model_path) / _LOADED_PER_SECOND


async def _of_learners(asked: Awaitable[object], seconds: float, doing: str) -> None:
    """What learners do with engines: one of these that is gone meanwhile keeps them waiting for good. So
    whoever is cancelled, and ends the engines, waits for it first, but not for long."""
    asking = asyncio.ensure_future(answered(asked, seconds, f"a learner or an engine, {doing},"))
    try:
        await asyncio.shield(asking)
    except UnresponsiveError as error:
        raise LearnerLostError(str(error)) from error
    except asyncio.CancelledError:
        await asyncio.wait({asking}, timeout=_LEAVE_SECONDS)
        raise
    finally:
        asking.cancel()


async def _started(engine: ActorHandle, who: str) -> None:
    """Returns when it is, as long as it lives: it may first have to wait for its place."""
    placed = partial(cluster.has_process, engine)
    await started(engine.start.remote, engine.alive.remote, placed, _ALIVE_EVERY, _STARTING_SECONDS, who)


def _is_told(error: BaseException) -> bool:
    """Whether an engine lived to say why it cannot start: it would say so again."""
    if at_its_start(error):
        return True
    return isinstance(error, RayTaskError) and not isinstance(error.cause, EngineUnavailableError)


def _of_dead_core(error: RayTaskError) -> bool:
    """vLLM's own process behind the actor died: whatever it was asked for is not to blame."""
    return type(error.cause).__name__ == "EngineDeadError"


def _of_weights(error: BaseException) -> bool:
    """The weights are gone: no engine is to blame."""
    return isinstance(error, RayTaskError) and isinstance(error.cause, WeightsLostError)


def _size(folder: str) -> int:
    """Bytes of a model's files; 0 for one that is not on this node."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
