"""From a recipe and its plan to what each actor is started with: pure functions, a spec each.

What stands in environment variables, as keys do, is read here too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from al_ray.actors.engine.spec import EngineSpec
from al_ray.actors.gateway.attempt_limits import Limits
from al_ray.actors.gateway.calls.hosted.model import HostedModelSpec
from al_ray.actors.gateway.calls.routes import CallRules
from al_ray.actors.gateway.calls.sampling import PinnedSampling, SamplingRules
from al_ray.actors.gateway.spec import GatewaySpec
from al_ray.actors.http import LOOPBACK
from al_ray.actors.learner.spec import LearnerSpec
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.actors.store.trace_exporter import ExportTarget, export_target
from al_ray.actors.weights.update import BACKENDS, Transport, transport
from al_ray.machines.plan import Plan
from al_ray.machines.precision import dtype_of
from al_ray.recipe import Recipe, SamplingSection, UpstreamSection
from al_ray.run.launch.footprint import memory_of


def transport_of(recipe: Recipe, plan: Plan) -> Transport:
    """How weights travel between the places of the plan; an adapter, which is small, goes as a file."""
    if plan.device == "gpu" and recipe.model.lora is None:
        return transport("gpu", together=plan.layout == "colocated")
    return transport("cpu", together=plan.one_node)


def engine_spec(recipe: Recipe, plan: Plan, model: Path, *, learn: bool) -> EngineSpec:
    """``learn``: what it answers with will change, but for what is frozen."""
    section, engines = recipe.model, recipe.engines
    begins = {name: each.adapter for name, each in recipe.policies.items() if each.adapter is not None}
    trained = recipe.trained_policies if learn else {}
    kept = {name: folder for name, folder in begins.items() if name not in trained}
    return EngineSpec(
        model_path=str(model),
        device=plan.device,
        dtype=dtype_of(recipe, plan.device),
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
        weight_transfer=BACKENDS[transport_of(recipe, plan)],
        lora=section.lora if trained or kept else None,
        adapters=kept,
        max_adapters=max(1, len(trained) + len(kept)),
    )


def learner_spec(recipe: Recipe, plan: Plan, model: Path) -> LearnerSpec:
    estimate = memory_of(recipe, plan, model)
    return LearnerSpec(
        model=str(model),
        dtype=dtype_of(recipe, plan.device),
        device="cpu" if plan.device == "cpu" else "cuda",
        threads=plan.learner_threads,
        max_length=recipe.model.max_length,
        micro_batch_tokens=recipe.learners.micro_batch_tokens,
        chat_template=_chat_template(recipe),
        transport=transport_of(recipe, plan),
        sharded=recipe.learners.weights == "sharded",
        lora=recipe.model.lora,
        policies=recipe.trained_policies,
        seed=recipe.seed,
        recompute=estimate.recompute if estimate else recipe.learners.recompute == "always",
        estimated=estimate.learner if estimate else 0,
    )


def gateway_spec(recipe: Recipe, recorded: str | None) -> GatewaySpec:
    """``recorded`` is the URL of the database whose rollouts are repeated."""
    return GatewaySpec(
        rules=CallRules(
            model=recipe.model.name,
            sampling={
                "train": _sampling(recipe.agent.sampling),
                "eval": _sampling(recipe.evaluation.sampling),
                "judge": _sampling(recipe.evaluation.sampling),
            },
            seed=recipe.seed,
            policies=recipe.policies,
        ),
        limits=Limits(recipe.agent.limits.calls, recipe.agent.limits.tokens),
        hosted={
            name: _hosted(upstream, pinned=name == recipe.model.name)
            for name, upstream in recipe.upstreams.items()
        },
        # An empty one is none: it would be had by whoever sends no key.
        collector_key=os.environ.get(recipe.traces.collector_key_env) or None,
        export=export_of(recipe),
        recorded=recorded,
        host=recipe.gateway.host,
        max_body_bytes=recipe.gateway.max_body_bytes,
    )


def gateways_spread(recipe: Recipe) -> bool:
    """Whether gateways stand on all nodes; else beside the driver, where the SQLite file is and nobody else
    can reach them."""
    return not recipe.gateway.is_local and recipe.store.url is not None


def service_host(recipe: Recipe) -> str:
    """Where services listen: for agents on the driver's node alone, unless runners may be on others."""
    return recipe.gateway.host if recipe.agent.more_runners else LOOPBACK


def runner_spec(recipe: Recipe, base_urls: Sequence[str], services: Mapping[str, str]) -> RunnerSpec:
    """``base_urls`` are the gateways'; ``services`` those of the services, by name."""
    named = {name: os.environ[name] for name in recipe.agent.environment}
    return RunnerSpec("runner", recipe.agent, tuple(base_urls), recipe.model.name, services, named)


def export_of(recipe: Recipe) -> ExportTarget | None:
    """The tracing backend that spans are copied to, if there is one."""
    section = recipe.traces.export
    return export_target(section.endpoint, section.headers, os.environ)


def _hosted(upstream: UpstreamSection, *, pinned: bool) -> HostedModelSpec:
    key = os.environ[upstream.api_key_env] if upstream.api_key_env else None
    return HostedModelSpec(upstream.base_url, upstream.model, key, pinned)


def _sampling(section: SamplingSection) -> SamplingRules:
    pinned = PinnedSampling(section.temperature, section.top_p, section.max_tokens)
    by_agent = [
        (pattern, replace(pinned, **agent.model_dump(exclude_unset=True)))
        for pattern, agent in section.agents.items()
    ]
    return SamplingRules(pinned, by_agent)


def _chat_template(recipe: Recipe) -> str | None:
    path = recipe.model.chat_template
    return Path(path).read_text(encoding="utf-8") if path else None
