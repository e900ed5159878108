"""The parts of a run as one thing: started together, watched, and stopped together."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray

from al_ray import cluster
from al_ray import plan as planner
from al_ray.actors.attempt_limits import Limits
from al_ray.actors.engine import EngineSpec
from al_ray.actors.engine_pool import EnginePool
from al_ray.actors.gateway import GATEWAY_OPTIONS, Gateway, GatewaySpec
from al_ray.actors.hosted_model import HostedModelSpec
from al_ray.actors.learner import LearnerSettings
from al_ray.actors.learner_group import LearnerGroup
from al_ray.actors.model_calls import CallRules
from al_ray.actors.placement import Placement, beside_the_driver, cluster_shape
from al_ray.actors.ray_errors import unwrapped
from al_ray.actors.runner import RunnerSpec
from al_ray.actors.runner_pool import RunnerPool
from al_ray.actors.sampling_policy import PinnedSampling, SamplingPolicy
from al_ray.actors.service_pool import ServicePool
from al_ray.actors.store import STORE_OPTIONS, Store
from al_ray.actors.trace_exporter import ExportTarget, export_target
from al_ray.actors.weight_transfer import BACKENDS, Transport, transport
from al_ray.config import Recipe, SamplingSection, UpstreamSection
from al_ray.errors import EngineUnavailableError
from al_ray.run_folder import RunFolder
from al_ray.types import Group, RolloutRequest

_WATCH_SECONDS = 2.0
_MAX_DEATHS = 5
_EXPORT_SECONDS = 5.0
"""What a tracing backend has, at the end, to take what waits for it."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Parts:
    """Everything the driver speaks with."""

    store: Any
    gateways: Sequence[Any]
    engines: EnginePool
    runners: RunnerPool
    services: ServicePool
    learners: LearnerGroup | None
    """None where nothing is learnt, as in ``al-ray eval``."""
    tensor_parallel: int
    pushes_weights: bool
    """Weights are sent by the learners to paused engines, not stored for them."""
    served_version: int = 0
    """The policy version that the engines hold."""
    deaths: int = 0
    """Engines replaced since their weights changed last."""
    watch: asyncio.Task[None] | None = None

    async def rollouts(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sequence[Group]]:
        """Enqueue the rollouts of one batch and yield its groups as they are complete."""
        batch = requests[0].batch
        missing = {request.group for request in requests}
        done: list[str] = []
        await self.store.enqueue.remote(requests)
        while missing:
            groups = await self.store.finished_groups.remote(batch, done, _WATCH_SECONDS)
            done += [group.id for group in groups]
            missing -= set(done)
            if groups:
                yield groups
            if failure := self.runners.failure() or self.services.failure():
                raise failure
            if self.watch is not None and self.watch.done():
                await self.watch

    async def sync_weights(self) -> None:
        """Give the engines the learners' weights, if they do not have them. Calls wait meanwhile."""
        if self.learners is None:
            return
        version = await asyncio.to_thread(self.learners.policy_version)
        if version != self.served_version:
            await self._transfer_weights(self.learners, version)
            self.deaths = 0

    async def watch_engines(self) -> None:
        """Replace engines that die, and tell the gateway, until cancelled.

        Raises ``EngineUnavailableError`` when that does not help: some call kills whichever answers it.
        """
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            replaced = await self.engines.replace_dead()
            self.deaths += len(replaced)
            if self.deaths > _MAX_DEATHS:
                raise EngineUnavailableError(
                    f"{self.deaths} engines died since policy version {self.served_version} was admitted; "
                    f"their logs are in {cluster.log_folder()}"
                )
            if replaced and self.learners is not None and self.pushes_weights:
                await self.connect_engines()
                await self._transfer_weights(self.learners, self.served_version)
            # Also without a replacement: the gateway drops an engine that failed a call but lives.
            await self.admit_engines()

    async def admit_engines(self) -> None:
        """Tell the gateways which engines may answer."""
        engines = self.engines.admitted()
        await asyncio.gather(*(gateway.admit.remote(engines) for gateway in self.gateways))

    async def connect_engines(self) -> None:
        """Where weights are sent rather than stored, let the learners meet the engines."""
        if self.learners is not None and self.pushes_weights:
            await asyncio.to_thread(
                self.learners.connect_engines, self.engines.engines(), self.tensor_parallel
            )

    async def _transfer_weights(self, learners: LearnerGroup, version: int) -> None:
        update = await asyncio.to_thread(learners.publish, version)
        send = partial(asyncio.to_thread, learners.send_weights) if self.pushes_weights else None
        await self.engines.update(update, send)
        await self.admit_engines()
        self.served_version = version


@asynccontextmanager
async def started(
    recipe: Recipe, model: Path, folder: RunFolder, *, learn: bool = True
) -> AsyncIterator[Parts]:
    """Start all parts of a run on the connected Ray cluster; they end with the context."""
    plan = planner.plan(recipe, cluster_shape())
    async with AsyncExitStack() as stack:
        placement = Placement(plan)
        stack.callback(placement.release)
        here = beside_the_driver()
        store = (
            ray.remote(Store)
            .options(**STORE_OPTIONS, **here)
            .remote(folder.store_url, export=_export(recipe))
        )
        stack.callback(ray.kill, store)
        stack.push_async_callback(_flushed, store)
        with unwrapped():
            await store.ping.remote()
        way = transport(plan.device, together=_together(plan))
        engines = EnginePool(_engine_spec(recipe, plan, model, way), _options(placement, "engine"))
        stack.push_async_callback(engines.shutdown)
        learners = None
        if learn:
            settings = _learner_settings(recipe, plan, model, way)
            learners = LearnerGroup(settings, _options(placement, "learner"))
            stack.push_async_callback(asyncio.to_thread, learners.close)
        await engines.start()
        services = ServicePool(recipe.services, recipe.data.path, here)
        stack.push_async_callback(services.stop)
        service_urls = await services.start()
        gateways = [_gateway(recipe, store, here) for _ in range(recipe.gateway.replicas)]
        for gateway in gateways:
            stack.callback(ray.kill, gateway)
        base_urls = await asyncio.gather(*(gateway.start.remote() for gateway in gateways))
        runners = RunnerPool(_runner_spec(recipe, base_urls, service_urls), recipe.agent.runners, store, here)
        runners.start()
        stack.push_async_callback(runners.stop)
        pushes = BACKENDS[way] != "al_ray"
        width = recipe.engines.tensor_parallel
        parts = Parts(store, gateways, engines, runners, services, learners, width, pushes)
        await parts.admit_engines()
        await parts.connect_engines()
        parts.watch = asyncio.create_task(parts.watch_engines())
        stack.callback(parts.watch.cancel)
        yield parts


def _together(plan: planner.Plan) -> bool:
    if plan.device == "gpu":
        return plan.layout == "colocated"
    return len({bundle.node for bundle in plan.bundles}) == 1


def _options(placement: Placement, role: str) -> list[dict[str, Any]]:
    tenants = [name for bundle in placement.plan.bundles for name in bundle.tenants]
    return [placement.actor_options(name) for name in tenants if name.startswith(role)]


def _engine_spec(recipe: Recipe, plan: planner.Plan, model: Path, way: Transport) -> EngineSpec:
    section, engines = recipe.model, recipe.engines
    return EngineSpec(
        model_path=str(model),
        device=plan.device,
        dtype=section.dtype,
        max_length=section.max_length,
        threads=plan.engine_threads,
        kv_cache_gib=engines.kv_cache_gib,
        gpu_memory=engines.gpu_memory,
        max_running=engines.max_running,
        seed=recipe.seed,
        tensor_parallel=engines.tensor_parallel,
        chat_template=_chat_template(recipe),
        tool_parser=section.tool_parser,
        reasoning_parser=section.reasoning_parser,
        weight_transfer=BACKENDS[way],
    )


def _learner_settings(recipe: Recipe, plan: planner.Plan, model: Path, way: Transport) -> LearnerSettings:
    return LearnerSettings(
        model=str(model),
        dtype=recipe.model.dtype,
        device="cpu" if plan.device == "cpu" else "cuda",
        threads=plan.learner_threads,
        micro_batch_tokens=recipe.learners.micro_batch_tokens,
        chat_template=_chat_template(recipe),
        transport=way,
    )


def _export(recipe: Recipe) -> ExportTarget | None:
    section = recipe.traces.export
    return export_target(section.endpoint, section.headers, os.environ)


async def _flushed(store: Any) -> None:
    await store.flush_export.remote(_EXPORT_SECONDS)


def _gateway(recipe: Recipe, store: Any, here: Mapping[str, Any]) -> Any:
    """Beside the driver, as runners are, where nobody else can reach it."""
    section = recipe.gateway
    where = here if section.host == "127.0.0.1" else {"scheduling_strategy": "SPREAD"}
    spec = GatewaySpec(
        rules=CallRules(
            model=Path(recipe.model.path).name,
            sampling={
                "train": _sampling(recipe.agent.sampling),
                "eval": _sampling(recipe.evaluation.sampling),
            },
            seed=recipe.seed,
        ),
        limits=Limits(recipe.agent.limits.calls, recipe.agent.limits.tokens),
        hosted={name: _hosted(upstream) for name, upstream in recipe.upstreams.items()},
        collector_key=os.environ.get(recipe.traces.collector_key_env),
        host=section.host,
        max_body_bytes=section.max_body_bytes,
    )
    return ray.remote(Gateway).options(**GATEWAY_OPTIONS, **where).remote(spec, store)


def _hosted(upstream: UpstreamSection) -> HostedModelSpec:
    key = os.environ[upstream.api_key_env] if upstream.api_key_env else None
    return HostedModelSpec(upstream.base_url, upstream.model, key)


def _runner_spec(recipe: Recipe, base_urls: Sequence[str], services: Mapping[str, str]) -> RunnerSpec:
    return RunnerSpec("runner", recipe.agent, tuple(base_urls), Path(recipe.model.path).name, services)


def _sampling(section: SamplingSection) -> SamplingPolicy:
    pinned = PinnedSampling(section.temperature, section.top_p, section.max_tokens)
    by_agent = [
        (pattern, replace(pinned, **agent.model_dump(exclude_unset=True)))
        for pattern, agent in section.agents.items()
    ]
    return SamplingPolicy(pinned, by_agent)


def _chat_template(recipe: Recipe) -> str | None:
    path = recipe.model.chat_template
    return Path(path).read_text(encoding="utf-8") if path else None
