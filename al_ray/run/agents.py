"""What agents run with, whoever answers their calls: store, gateways, services and runners, started
together and stopped together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray

from al_ray.actors.gateway.actor import GatewaySpec
from al_ray.actors.gateway.attempt_limits import Limits
from al_ray.actors.gateway.calls.hosted_model import HostedModelSpec
from al_ray.actors.gateway.calls.routes import CallRules
from al_ray.actors.gateway.calls.sampling import PinnedSampling, SamplingPolicy
from al_ray.actors.gateway.pool import GatewayPool
from al_ray.actors.ray_errors import unwrapped
from al_ray.actors.runner.actor import RunnerSpec
from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.service.pool import ServicePool
from al_ray.actors.store.actor import STORE_OPTIONS, Store
from al_ray.actors.store.trace_exporter import ExportTarget, export_target
from al_ray.database.reader import Records
from al_ray.machines.placement import beside_the_driver
from al_ray.recipe import Recipe, SamplingSection, UpstreamSection
from al_ray.run.folder import RunFolder
from al_ray.types import Group, RolloutRequest

_WATCH_SECONDS = 2.0
_GROUPS_READ = 64
"""At once: of a resumed evaluation thousands may have ended."""
_EXPORT_SECONDS = 5.0
"""What a tracing backend has, at the end, to take what waits for it."""


@dataclass(slots=True)
class AgentParts:
    """What agents run with, whoever answers their calls."""

    store: Any
    records: Records
    gateways: GatewayPool
    runners: RunnerPool
    services: ServicePool
    watch: asyncio.Task[None] | None = None
    """Keeps those alive that answer, where these are ours; ends if it cannot."""

    async def rollouts(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sequence[Group]]:
        """Enqueue the rollouts of one batch and yield its groups as they are complete."""
        batch = requests[0].batch
        missing = {request.group for request in requests}
        done: list[str] = []
        await self.store.enqueue.remote(requests)
        while missing:
            names = await self.store.finished_groups.remote(batch, done, _WATCH_SECONDS)
            done += names
            missing -= set(names)
            for start in range(0, len(names), _GROUPS_READ):
                some = names[start : start + _GROUPS_READ]
                yield await asyncio.to_thread(self.records.groups, batch, some)
            await self._check()

    async def _check(self) -> None:
        """Raises what keeps rollouts from ending."""
        failures = (part.failure() for part in (self.runners, self.gateways, self.services))
        if failure := next(filter(None, failures), None):
            raise failure
        if self.watch is not None and self.watch.done():
            await self.watch


@asynccontextmanager
async def started_for_hosted(recipe: Recipe, folder: RunFolder) -> AsyncIterator[AgentParts]:
    """What agents need where a hosted model stands in the model's place: neither engines nor learners."""
    async with AsyncExitStack() as stack:
        store, records = await open_store(recipe, folder, stack)
        yield await start_agent_parts(recipe, folder, store, records, stack)


async def open_store(recipe: Recipe, folder: RunFolder, stack: AsyncExitStack) -> tuple[Any, Records]:
    """The run's store, and its records to be read here."""
    options = {**STORE_OPTIONS, **beside_the_driver()}
    store = ray.remote(Store).options(**options).remote(folder.store_url, export=_export(recipe))
    stack.callback(ray.kill, store)
    stack.push_async_callback(_flushed, store)
    with unwrapped():
        await store.ping.remote()
    records = Records(folder.store_url)
    stack.callback(records.close)
    return store, records


async def start_agent_parts(
    recipe: Recipe, folder: RunFolder, store: Any, records: Records, stack: AsyncExitStack
) -> AgentParts:
    """Start the rest. Runners claim at once: whoever answers must be ready by then."""
    here = beside_the_driver()
    services = ServicePool(recipe.services, recipe.data.path, here)
    stack.push_async_callback(services.stop)
    service_urls = await services.start()
    gateways = _gateways(recipe, folder.store_url, here)
    stack.push_async_callback(gateways.stop)
    stack.push_async_callback(gateways.flush_export, _EXPORT_SECONDS)
    spec = _runner_spec(recipe, await gateways.start(), service_urls)
    runners = RunnerPool(spec, recipe.agent.runners, store, here)
    runners.start()
    stack.push_async_callback(runners.stop)
    return AgentParts(store, records, gateways, runners, services)


def _gateways(recipe: Recipe, url: str, here: Mapping[str, Any]) -> GatewayPool:
    """Beside the driver, where the SQLite file is and nobody else can reach them; else on all nodes."""
    section = recipe.gateway
    everywhere = section.host != "127.0.0.1" and recipe.store.url is not None
    where = {"scheduling_strategy": "SPREAD"} if everywhere else here
    spec = GatewaySpec(
        rules=CallRules(
            model=recipe.model.name,
            sampling={
                "train": _sampling(recipe.agent.sampling),
                "eval": _sampling(recipe.evaluation.sampling),
            },
            seed=recipe.seed,
        ),
        limits=Limits(recipe.agent.limits.calls, recipe.agent.limits.tokens),
        hosted={
            name: _hosted(upstream, pinned=name == recipe.model.name)
            for name, upstream in recipe.upstreams.items()
        },
        collector_key=os.environ.get(recipe.traces.collector_key_env),
        export=_export(recipe),
        host=section.host,
        max_body_bytes=section.max_body_bytes,
    )
    return GatewayPool(spec, section.replicas, url, where)


def _hosted(upstream: UpstreamSection, *, pinned: bool) -> HostedModelSpec:
    key = os.environ[upstream.api_key_env] if upstream.api_key_env else None
    return HostedModelSpec(upstream.base_url, upstream.model, key, pinned)


def _runner_spec(recipe: Recipe, base_urls: Sequence[str], services: Mapping[str, str]) -> RunnerSpec:
    return RunnerSpec("runner", recipe.agent, tuple(base_urls), recipe.model.name, services)


def _sampling(section: SamplingSection) -> SamplingPolicy:
    pinned = PinnedSampling(section.temperature, section.top_p, section.max_tokens)
    by_agent = [
        (pattern, replace(pinned, **agent.model_dump(exclude_unset=True)))
        for pattern, agent in section.agents.items()
    ]
    return SamplingPolicy(pinned, by_agent)


def _export(recipe: Recipe) -> ExportTarget | None:
    section = recipe.traces.export
    return export_target(section.endpoint, section.headers, os.environ)


async def _flushed(store: Any) -> None:
    await store.flush_export.remote(_EXPORT_SECONDS)
