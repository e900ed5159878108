"""The policy of a run, as the driver holds it: the model that learns, and that answers agents' calls.

Learners hold its weights and change them; engines answer with the weights that were served last. Between
the two stands a number, the policy version: ``update`` raises the learners', ``serve`` the engines'.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import ray
from ray.exceptions import RayError

from al_ray.actors.engine.pool import ANSWER_SECONDS, EnginePool
from al_ray.actors.gateway.pool import GatewayPool
from al_ray.actors.keepers import Keepers
from al_ray.actors.ray_errors import DIED, unwrapped
from al_ray.actors.waiting import answered
from al_ray.errors import EngineUnavailableError, LearnerLostError, UnresponsiveError
from al_ray.machines.placement import draining
from al_ray.types import JSON, Row, UpdateReport

if TYPE_CHECKING:  # with torch, of which an evaluation needs nothing
    import numpy as np
    from ray.actor import ActorHandle

    from al_ray.actors.learner.group import LearnerGroup
    from al_ray.actors.learner.observing import Observations
    from al_ray.actors.learner.spec import StageSpec
    from al_ray.actors.weights.update import WeightUpdate
    from al_ray.algorithms.demonstration import TokenisedCall
    from al_ray.algorithms.losses.token import Loss
    from al_ray.run.stages.batch import Batch

_log = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")

_WATCH_SECONDS: Final = 2.0
_NONE: Final = -1
"""No version: what lost learners had made by a number is not what others make by it again."""
_TRANSFERS: Final = 5
"""Of the first weights, one after the loss of the other's learners."""
_RENDERINGS: Final = 5
"""Engines that are asked to render a conversation, one after the loss of the other."""


class Policy:
    """``engines`` are running, and answer through ``gateways`` from the first ``serve`` on: a run that goes
    on from a checkpoint has rollouts waiting, which older weights must not answer. Without ``learners`` it
    does not learn: its version stays 0, and only ``serve`` may be asked of it."""

    def __init__(self, engines: EnginePool, gateways: GatewayPool, learners: LearnerGroup | None) -> None:
        self._engines = engines
        self._gateways = gateways
        self._learners = learners
        self._served_version = 0
        self._serving = False
        self._transferring = asyncio.Lock()
        self._turn = asyncio.Lock()
        """Held by whoever asks the learners: ranks that are asked in different orders wait for each other."""
        self._asked: asyncio.Future[Any] | None = None
        """What they were asked last, in a thread of its own."""
        self._learner_lost: LearnerLostError | None = None
        """As new engines were to have weights."""
        self._settled = True
        """The learners hold what the run goes on with."""
        self._met: Sequence[ActorHandle] = ()
        """The engines that learners know how to send weights to."""
        self._going: Mapping[str, float] = {}
        self._keepers = Keepers()

    @property
    def served_version(self) -> int:
        """The version that the engines answer with; after ``restart_learners``, none before ``serve``."""
        return self._served_version

    async def start(self) -> None:
        """Tell the gateways of engines that come and go, from now on."""
        if self._learners is not None and self._learners.adapts:
            # Their calls name the adapter from the first on: one under way goes on with the next.
            await self._transfer_at_last(self._learners)
        keeping = [self._watch()]
        if self._learners is not None:
            keeping.append(self._bring_up_to_date(self._learners))
        self._keepers.start(keeping)

    async def stop(self) -> None:
        """Leave the engines to themselves; whoever started them ends them."""
        await self._keepers.stop()

    def failure(self) -> BaseException | None:
        """Why the engines could not be kept alive, if that happened, or that a learner was lost."""
        return self._keepers.failure() or self._engines.failure() or self._learner_lost

    @property
    def going(self) -> Mapping[str, float]:
        """The nodes that Ray is to take away, each with the time of its end, as it was last told."""
        return self._going

    async def homes(self) -> Mapping[str, str]:
        """The nodes without which a run goes back to its last checkpoint: who is there, by Ray's ids."""
        learners = set() if self._learners is None else await asyncio.to_thread(self._learners.nodes)
        here = ray.get_runtime_context().get_node_id()
        return {**dict.fromkeys(learners, "learners"), here: "the driver"}

    async def start_stage(self, spec: StageSpec) -> None:
        """What learners keep for a stage is fresh from now on."""
        await self._of_learners(self._learning.start_stage, spec)
        self._settled = True

    async def observe(
        self, rows: Sequence[Row], loss: Loss, estimator: str | None, *, features: bool
    ) -> Observations:
        """What the learners tell of calls before they are given credit; see ``Learner.observe``."""
        return await self._of_learners(self._learning.observe, rows, loss, estimator, features=features)

    async def critic_values(self, features: np.ndarray) -> np.ndarray:
        """What the critic expects of each call, ``[C]``."""
        return await self._of_learners(self._learning.critic_values, features)

    async def update(self, batch: Batch) -> UpdateReport:
        """What the learners make of a batch, the critic first. Engines go on with the version that they have,
        until ``serve``."""
        of_critic: Mapping[str, float] = {}
        if batch.lesson is not None:
            lesson = batch.lesson
            of_critic = await self._of_learners(self._learning.fit_critic, lesson.features, lesson.targets)
        report = await self._of_learners(self._learning.update, batch.rows, batch.loss, batch.passes)
        return UpdateReport(report.policy_version, {**report.metrics, **of_critic})

    async def serve(self) -> None:
        """Let the engines answer, with the learners' weights. Calls wait until then."""
        if self._learners is not None:
            version = await self._of_learners(self._learners.policy_version)
            if version != self._served_version or self._engines.unserved():
                async with self._transferring:
                    await self._transfer(self._learners)
        if not self._serving:
            self._serving = True
            await self._admit()

    async def render_calls(
        self, messages: Sequence[Mapping[str, JSON]], tools: Sequence[Mapping[str, JSON]] | None
    ) -> Sequence[TokenisedCall] | None:
        """The tokens of every assistant message of a conversation, exactly as if they had been sampled;
        None if the conversation is longer than the model can see."""
        for _ in range(_RENDERINGS):
            engine = await self._engines.one()
            try:
                with unwrapped():
                    found: Sequence[TokenisedCall] | None = await answered(
                        engine.render_calls.remote(messages, tools),
                        ANSWER_SECONDS,
                        "an engine, asked to render,",
                    )
                return found
            except (*DIED, UnresponsiveError) as error:  # it is being replaced
                lost = error
                await asyncio.sleep(_WATCH_SECONDS)
        raise EngineUnavailableError(f"no engine could render a conversation: {lost}") from lost

    async def restart_learners(self) -> None:
        """In the place of learners that were lost; ``load`` comes next, or they begin anew."""
        self._settled = False
        async with self._transferring:  # what goes on of one is of the lost ones
            await self._of_learners(self._learning.restart)
            self._learner_lost, self._met = None, ()
            self._served_version = _NONE

    async def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        await self._of_learners(self._learning.save, str(folder))

    async def load(self, folder: Path) -> None:
        """Go on from a checkpoint. Engines have its weights after the next ``serve``."""
        await self._of_learners(self._learning.load, str(folder))
        self._settled = True

    @property
    def _learning(self) -> LearnerGroup:
        assert self._learners is not None, "this policy does not learn"
        return self._learners

    async def _watch(self) -> None:
        """Let engines go whose node is to go, and tell the gateways of all that come and go: also of one that
        failed a call but lives, which a gateway drops."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            self._engines.spare(await self._look())
            await self._admit()
            await self._engines.retire()

    async def _bring_up_to_date(self, learners: LearnerGroup) -> None:
        """Give new engines the weights, where these are sent or what was stored of them is gone: when it is
        their turn with the learners, which may work for minutes."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if not self._engines.unserved():
                continue
            async with self._transferring:
                if self._engines.unserved() and self._settled and self._learner_lost is None:
                    try:
                        await self._transfer(learners)
                    except LearnerLostError as error:  # until ``restart_learners``
                        self._learner_lost = error

    async def _look(self) -> Mapping[str, float]:
        """What ``going`` is from now on; if Ray does not answer, what it was."""
        try:
            self._going = await asyncio.to_thread(draining)
        except RayError as error:
            _log.warning("Ray does not tell which nodes it takes away; it is asked again: %s", error)
        return self._going

    async def _transfer(self, learners: LearnerGroup) -> None:
        """Give the engines what the learners hold, under its number."""
        async with self._in_turn():
            version = await self._ask(learners.policy_version)
            update = await self._ask(learners.publish, version)
            if learners.pushes_weights:  # as they are when they are sent
                await self._push(learners, update)
        if not learners.pushes_weights:
            await self._engines.update(update)
        await self._admit()
        self._served_version = version

    async def _transfer_at_last(self, learners: LearnerGroup) -> None:
        """Though learners are lost meanwhile, as far as it helps to start others."""
        for further in reversed(range(_TRANSFERS)):
            try:
                return await self._transfer(learners)
            except LearnerLostError as error:
                if not further:
                    raise
                _log.warning("learners are started anew: %s", error)
                await self._of_learners(learners.restart)

    async def _push(self, learners: LearnerGroup, update: WeightUpdate) -> None:
        """In turn. The learners meet the engines first, if these are others than before. Whoever waits for
        learners that wait for an engine gives the turn back when they are ended, and not before."""
        try:
            if self._engines.engines() != self._met:
                self._met = await self._engines.meet(
                    lambda *those: self._ask(learners.connect_engines, *those)
                )
            await self._engines.update(update, partial(self._ask, learners.send_weights), self._met)
        except LearnerLostError:
            learners.end()
            raise

    async def _of_learners(
        self, asked: Callable[_Arguments, _Answer], *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Answer:
        """What they answer, when it is their turn."""
        async with self._in_turn():
            return await self._ask(asked, *arguments, **named)

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Whoever is cancelled inside leaves a thread that still asks: the turn goes back when it ends."""
        await self._turn.acquire()
        try:
            yield
        finally:
            if self._asked is None or self._asked.done():
                self._turn.release()
            else:
                self._asked.add_done_callback(self._give_back)

    def _give_back(self, asked: asyncio.Future[Any]) -> None:
        """The turn, when nobody waits any more for what was asked."""
        if not asked.cancelled():
            asked.exception()  # or asyncio would print it as one that was never looked at
        self._turn.release()

    async def _ask(
        self, asked: Callable[_Arguments, _Answer], *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Answer:
        """In turn."""
        asking = asyncio.ensure_future(asyncio.to_thread(asked, *arguments, **named))
        self._asked = asking
        return await asyncio.shield(asking)

    async def _admit(self) -> None:
        """Tell the gateways which engines may answer."""
        if self._serving:
            await self._gateways.admit(self._engines.admitted())
