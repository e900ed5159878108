"""The start of a run's parts on the connected Ray cluster, each before those that need it; they end with
the context, in reverse. Whoever starts them has the lock of the run's folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.gateway.pool import GatewayPool
from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.service.pool import ServicePool
from al_ray.actors.store.keeper import StoreKeeper
from al_ray.actors.waiting import all_started
from al_ray.database.backends import close_log
from al_ray.database.reader import Records
from al_ray.machines.placement import Placement, beside_the_driver, own_seats
from al_ray.machines.plan import Plan, more_runners
from al_ray.reports.console import Console
from al_ray.run.agents import Agents, Part
from al_ray.run.launch import specs
from al_ray.run.launch.preparation import PlacedModel, Prepared
from al_ray.run.policy import Policy

_EXPORT_SECONDS = 5.0
"""What a tracing backend has, at the end, to take what waits for it."""
_LOOK_SECONDS = 1.0


@asynccontextmanager
async def started(ready: Prepared, console: Console) -> AsyncIterator[tuple[Agents, Policy]]:
    """All that training needs."""
    assert ready.model is not None, "a hosted model cannot be trained"
    async with AsyncExitStack() as stack:
        agents, policy = await _with_engines(ready, ready.model, console, stack, learn=True)
        yield agents, policy


@asynccontextmanager
async def started_for_evaluation(ready: Prepared, console: Console) -> AsyncIterator[Agents]:
    """What agents need: no learners, and where a hosted model stands in the model's place no engines."""
    async with AsyncExitStack() as stack:
        if ready.model is not None:
            agents, policy = await _with_engines(ready, ready.model, console, stack, learn=False)
            await policy.serve()
        else:
            keeper, records = await _store(ready, console, stack)
            gateways, urls = await _gateways(ready, console, stack)
            needs = await _runners(ready, keeper.store, urls, console, stack, wanted=lambda: False)
            agents = Agents(keeper.store, records, [keeper, *needs, gateways])
        yield agents


async def _with_engines(
    ready: Prepared, model: PlacedModel, console: Console, stack: AsyncExitStack, *, learn: bool
) -> tuple[Agents, Policy]:
    ready.folder.note_placement(model.plan)  # by whoever has its lock, not whoever is refused it
    placement = Placement(model.plan, _name(ready))
    stack.callback(placement.release)
    keeper, records = await _store(ready, console, stack)
    spec = specs.engine_spec(ready.recipe, model.plan, model.folder, learn=learn)
    engines = EnginePool(spec, placement.seats(), placement.more_seats())
    stack.push_async_callback(engines.shutdown)
    learners = None
    if learn:
        with console.part("learners"):
            from al_ray.actors.learner.group import LearnerGroup  # with torch, which evaluation does without

            settings = specs.learner_spec(ready.recipe, model.plan, model.folder)
            options = [placement.actor_options(name) for name in model.plan.tenants("learner")]
            learners = LearnerGroup(settings, options)
            stack.push_async_callback(asyncio.to_thread, learners.close)
            loading = asyncio.to_thread(learners.start)
            _, computes = await all_started([_engines(engines, model.plan, console), loading])
        console.note(f"the learner {computes}")
    else:
        await _engines(engines, model.plan, console)
    gateways, urls = await _gateways(ready, console, stack)
    policy = Policy(engines, gateways, learners)
    stack.push_async_callback(policy.stop)
    with console.part("the weights' way from learners to engines"):
        await policy.start()
    needs = await _runners(ready, keeper.store, urls, console, stack, placement.wants_room)
    judges = ready.recipe.agent.retry.rules if ready.recipe.agent.judge is not None else None
    return Agents(keeper.store, records, [keeper, *needs, gateways, policy], judges), policy


async def _engines(engines: EnginePool, plan: Plan, console: Console) -> None:
    """Start them, and tell how many are there."""
    count = len(plan.tenants("engine"))
    with console.part("engines"):
        starting = asyncio.ensure_future(engines.start())
        try:
            while not starting.done():
                console.phase("engines", len(engines.admitted()), count)
                await asyncio.wait({starting}, timeout=_LOOK_SECONDS)
            await starting
        finally:
            starting.cancel()


async def _store(ready: Prepared, console: Console, stack: AsyncExitStack) -> tuple[StoreKeeper, Records]:
    """The run's store, and its records to be read here."""
    url, export = ready.folder.store_url, specs.export_of(ready.recipe)
    stack.callback(close_log, url)  # last, when all who write have ended
    with console.part("store"):
        keeper = StoreKeeper(url, export, beside_the_driver())
        stack.push_async_callback(keeper.stop, _EXPORT_SECONDS)
        await keeper.start()
        await keeper.store.lose_all.remote()  # else a run that goes on would wait for their leases
    records = Records(url)
    stack.callback(records.close)
    return keeper, records


async def _gateways(
    ready: Prepared, console: Console, stack: AsyncExitStack
) -> tuple[GatewayPool, Sequence[str]]:
    """The gateways with their base URLs."""
    recipe = ready.recipe
    where = {"scheduling_strategy": "SPREAD"} if specs.gateways_spread(recipe) else beside_the_driver()
    spec = specs.gateway_spec(recipe, ready.recorded)
    gateways = GatewayPool(spec, recipe.gateway.replicas, ready.folder.store_url, where)
    stack.push_async_callback(gateways.stop)
    stack.push_async_callback(gateways.flush_export, _EXPORT_SECONDS)
    with console.part("gateways"):
        return gateways, await gateways.start()


async def _runners(
    ready: Prepared,
    store: Any,
    gateway_urls: Sequence[str],
    console: Console,
    stack: AsyncExitStack,
    wanted: Callable[[], bool],
) -> Sequence[Part]:
    """Services and runners, which claim at once: whoever answers must be ready by now. Those that only may be
    there leave while their room is ``wanted``."""
    recipe, here = ready.recipe, beside_the_driver()
    services = ServicePool(recipe.services, recipe.data.path, here, specs.service_host(recipe))
    stack.push_async_callback(services.stop)
    with console.part("services"):
        urls = await services.start()
    more = own_seats(more_runners(recipe), _name(ready), wanted)
    for seat in more:
        stack.callback(seat.release)
    spec = specs.runner_spec(recipe, gateway_urls, urls)
    runners = RunnerPool(spec, recipe.agent.runners, store, here, more)
    runners.start()
    stack.push_async_callback(runners.stop)
    return [runners, services]


def _name(ready: Prepared) -> str:
    """For Ray's dashboard."""
    return f"{ready.recipe.name}/{ready.folder.path.name}"
