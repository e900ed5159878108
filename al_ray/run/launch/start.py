"""The start of a run's parts on the connected Ray cluster, each before those that need it; they end with
the context, in reverse. Whoever starts them has the lock of the run's folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.gateway.pool import GatewayPool
from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.service.pool import ServicePool
from al_ray.actors.store.keeper import StoreKeeper
from al_ray.actors.waiting import all_started
from al_ray.database.backends import close_log
from al_ray.database.reader import Records
from al_ray.machines.placement import Placement, beside_the_driver, own_seats
from al_ray.machines.plan import more_runners
from al_ray.reports.console import Console
from al_ray.run.agents import Agents, Part
from al_ray.run.launch import specs
from al_ray.run.launch.preparation import PlacedModel, Prepared
from al_ray.run.policy import Policy

if TYPE_CHECKING:
    from al_ray.actors.learner.group import LearnerGroup

_EXPORT_SECONDS = 5.0
"""What a tracing backend has, at the end, to take what waits for it."""
_LOOK_SECONDS = 1.0


@asynccontextmanager
async def started(ready: Prepared, console: Console) -> AsyncIterator[tuple[Agents, Policy]]:
    """All that training needs."""
    assert ready.model is not None, "a hosted model cannot be trained"
    async with AsyncExitStack() as stack:
        yield await _Start(ready, console, stack).with_engines(ready.model, learn=True)


@asynccontextmanager
async def started_for_evaluation(ready: Prepared, console: Console) -> AsyncIterator[Agents]:
    """What agents need: no learners, and where a hosted model stands in the model's place no engines."""
    async with AsyncExitStack() as stack:
        start = _Start(ready, console, stack)
        if ready.model is None:
            yield await start.without_engines()
        else:
            agents, policy = await start.with_engines(ready.model, learn=False)
            await policy.serve()
            yield agents


@dataclass(frozen=True, slots=True)
class _Start:
    """Of the parts of one run."""

    ready: Prepared
    console: Console
    stack: AsyncExitStack
    """Ends them, also those that have only begun to start."""

    async def with_engines(self, model: PlacedModel, *, learn: bool) -> tuple[Agents, Policy]:
        """All parts of a run; ``learn``: learners too."""
        recipe = self.ready.recipe
        self.ready.folder.note_placement(model.plan)  # by whoever has its lock, not whoever is refused it
        placement = Placement(model.plan, self._name)
        self.stack.callback(placement.release)
        keeper, records = await self._store()
        engines, learners = await self._engines(model, placement, learn=learn)
        gateways, urls = await self._gateways()
        policy = Policy(engines, gateways, learners)
        self.stack.push_async_callback(policy.stop)
        with self.console.part("the weights' way from learners to engines"):
            await policy.start()
        needs = await self._runners(keeper.store, urls, placement.wants_room)
        judges = recipe.agent.retry.rules if recipe.agent.judge is not None else None
        return Agents(keeper.store, records, [keeper, *needs, gateways, policy], judges), policy

    async def without_engines(self) -> Agents:
        """What agents need that a hosted model answers."""
        keeper, records = await self._store()
        gateways, urls = await self._gateways()
        needs = await self._runners(keeper.store, urls, wanted=lambda: False)
        return Agents(keeper.store, records, [keeper, *needs, gateways])

    async def _store(self) -> tuple[StoreKeeper, Records]:
        """The run's store, and its records to be read here."""
        url, export = self.ready.folder.store_url, specs.export_of(self.ready.recipe)
        self.stack.callback(close_log, url)  # last, when all who write have ended
        with self.console.part("store"):
            keeper = StoreKeeper(url, export, beside_the_driver())
            self.stack.push_async_callback(keeper.stop, _EXPORT_SECONDS)
            await keeper.start()
            await keeper.store.lose_all.remote()  # else a run that goes on would wait for their leases
        records = Records(url)
        self.stack.callback(records.close)
        return keeper, records

    async def _engines(
        self, model: PlacedModel, placement: Placement, *, learn: bool
    ) -> tuple[EnginePool, LearnerGroup | None]:
        """The engines and, to ``learn``, the learners: they load the model at the same time."""
        spec = specs.engine_spec(self.ready.recipe, model.plan, model.folder, learn=learn)
        engines = EnginePool(spec, placement.seats(), placement.more_seats())
        self.stack.push_async_callback(engines.shutdown)
        count = len(model.plan.tenants("engine"))
        if not learn:
            await self._all_there(engines, count)
            return engines, None
        with self.console.part("learners"):
            from al_ray.actors.learner.group import LearnerGroup  # with torch, which evaluation does without

            settings = specs.learner_spec(self.ready.recipe, model.plan, model.folder)
            options = [placement.actor_options(name) for name in model.plan.tenants("learner")]
            learners = LearnerGroup(settings, options)
            self.stack.push_async_callback(asyncio.to_thread, learners.close)
            loading = asyncio.to_thread(learners.start)
            _, computes = await all_started([self._all_there(engines, count), loading])
        self.console.note(f"the learner {computes}")
        return engines, learners

    async def _all_there(self, engines: EnginePool, count: int) -> None:
        """Start them, and tell how many are there."""
        with self.console.part("engines"):
            starting = asyncio.ensure_future(engines.start())
            try:
                while not starting.done():
                    self.console.phase("engines", len(engines.admitted()), count)
                    await asyncio.wait({starting}, timeout=_LOOK_SECONDS)
                await starting
            finally:
                starting.cancel()

    async def _gateways(self) -> tuple[GatewayPool, Sequence[str]]:
        """The gateways with their base URLs."""
        recipe = self.ready.recipe
        where = {"scheduling_strategy": "SPREAD"} if specs.gateways_spread(recipe) else beside_the_driver()
        spec = specs.gateway_spec(recipe, self.ready.recorded)
        gateways = GatewayPool(spec, recipe.gateway.replicas, self.ready.folder.store_url, where)
        self.stack.push_async_callback(gateways.stop)
        self.stack.push_async_callback(gateways.flush_export, _EXPORT_SECONDS)
        with self.console.part("gateways"):
            return gateways, await gateways.start()

    async def _runners(
        self, store: Any, gateway_urls: Sequence[str], wanted: Callable[[], bool]
    ) -> Sequence[Part]:
        """Services and runners, which claim at once: whoever answers must be ready by now. Those that only
        may be there leave while their room is ``wanted``."""
        recipe, here = self.ready.recipe, beside_the_driver()
        services = ServicePool(recipe.services, recipe.data.path, here, specs.service_host(recipe))
        self.stack.push_async_callback(services.stop)
        with self.console.part("services"):
            urls = await services.start()
        more = own_seats(more_runners(recipe), self._name, wanted)
        for seat in more:
            self.stack.callback(seat.release)
        spec = specs.runner_spec(recipe, gateway_urls, urls)
        runners = RunnerPool(spec, recipe.agent.runners, store, here, more)
        runners.start()
        self.stack.push_async_callback(runners.stop)
        return [runners, services]

    @property
    def _name(self) -> str:
        """For Ray's dashboard."""
        return f"{self.ready.recipe.name}/{self.ready.folder.path.name}"
