"""The parts of a run as one thing: started together, watched, and stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.engine.spec import EngineSpec
from al_ray.actors.learner.group import LearnerGroup
from al_ray.actors.learner.spec import LearnerSpec
from al_ray.actors.weights.update import BACKENDS, Transport, pushes, transport
from al_ray.errors import EngineUnavailableError
from al_ray.machines import cluster
from al_ray.machines import plan as planner
from al_ray.machines.placement import Placement, cluster_shape
from al_ray.recipe import Recipe
from al_ray.run.agents import AgentParts, open_store, start_agent_parts
from al_ray.run.folder import RunFolder

_WATCH_SECONDS = 2.0
_MAX_DEATHS = 5


@dataclass(slots=True)
class Parts:
    """Everything the driver speaks with."""

    agents: AgentParts
    engines: EnginePool
    learners: LearnerGroup | None
    """None where nothing is learnt, as in ``al-ray eval``."""
    tensor_parallel: int
    pushes_weights: bool
    """Weights are sent by the learners to paused engines, not stored for them."""
    served_version: int = 0
    """The policy version that the engines hold."""
    deaths: int = 0
    """Engines replaced since their weights changed last."""

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
        await self.agents.gateways.admit(self.engines.admitted())

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
        store, records = await open_store(recipe, folder, stack)
        way = transport(plan.device, together=_together(plan))
        engines = EnginePool(_engine_spec(recipe, plan, model, way), _options(placement, "engine"))
        stack.push_async_callback(engines.shutdown)
        learners = None
        if learn:
            spec = _learner_spec(recipe, plan, model, way)
            learners = LearnerGroup(spec, _options(placement, "learner"))
            stack.push_async_callback(asyncio.to_thread, learners.close)
        await engines.start()
        agents = await start_agent_parts(recipe, folder, store, records, stack)
        parts = Parts(agents, engines, learners, recipe.engines.tensor_parallel, pushes(way))
        await parts.admit_engines()
        await parts.connect_engines()
        agents.watch = asyncio.create_task(parts.watch_engines())
        stack.callback(agents.watch.cancel)
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


def _learner_spec(recipe: Recipe, plan: planner.Plan, model: Path, way: Transport) -> LearnerSpec:
    return LearnerSpec(
        model=str(model),
        dtype=recipe.model.dtype,
        device="cpu" if plan.device == "cpu" else "cuda",
        threads=plan.learner_threads,
        micro_batch_tokens=recipe.learners.micro_batch_tokens,
        chat_template=_chat_template(recipe),
        transport=way,
    )


def _chat_template(recipe: Recipe) -> str | None:
    path = recipe.model.chat_template
    return Path(path).read_text(encoding="utf-8") if path else None
