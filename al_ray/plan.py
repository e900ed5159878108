"""The placement planner: a recipe and the nodes there are -> bundles, or what is missing.

Pure: it neither asks Ray nor starts anything. ``al_ray.actors.placement`` makes the placement
groups of a plan.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from al_ray.config import NodeShape, Recipe
from al_ray.errors import PlacementError, Problem

Device = Literal["cpu", "gpu"]
Layout = Literal["colocated", "disaggregated"]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Resources on one node and who lives there; several tenants take turns on them."""

    tenants: tuple[str, ...]
    """For example ``("engine 0", "learner 0")``."""
    cpus: float
    gpus: int
    node: int
    """Which of the nodes it fits on; a proof that the plan can be met, Ray may choose another."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where engines and learners go. Store, gateway and runners live beside the driver."""

    device: Device
    layout: Layout
    bundles: Sequence[Bundle]
    engine_threads: int
    learner_threads: int

    def bundle_of(self, tenant: str) -> int:
        """The index of the bundle that ``tenant`` lives in."""
        return next(index for index, bundle in enumerate(self.bundles) if tenant in bundle.tenants)


def this_machine() -> list[NodeShape]:
    """The machine that this process runs on, as a cluster of one node."""
    gpus = len([device for device in Path("/dev").glob("nvidia[0-9]*") if device.name[6:].isdecimal()])
    return [NodeShape(cpus=os.cpu_count() or 1, gpus=gpus)]


def plan(recipe: Recipe, cluster: Sequence[NodeShape]) -> Plan:
    """Raises ``PlacementError`` that says what the recipe needs and what the cluster has."""
    nodes = [(float(shape.cpus), shape.gpus) for shape in cluster for _ in range(shape.count)]
    gpus = sum(node_gpus for _, node_gpus in nodes)
    wanted = recipe.placement.device
    device: Device = ("gpu" if gpus else "cpu") if wanted == "auto" else wanted
    if device == "gpu":
        return _gpu_plan(recipe, nodes)
    return _cpu_plan(recipe, nodes)


def _cpu_plan(recipe: Recipe, nodes: list[tuple[float, int]]) -> Plan:
    """Cores are cut into equal bundles. Colocated tenants use all threads of their bundle in turns."""
    engines, learners = recipe.engines.replicas, recipe.learners.replicas
    layout: Layout = "disaggregated" if recipe.placement.layout == "disaggregated" else "colocated"
    homes = _tenants(engines, learners, layout)
    total = sum(cpus for cpus, _ in nodes)
    if total < len(homes):
        needs = f"{layout} {engines} engine(s) and {learners} learner(s) need {len(homes)} cores, the cluster has"
        raise PlacementError(Problem("placement", f"{needs} {total:g}", _FEWER))
    cpus = max(1.0, total // len(homes))
    while (bundles := _fit(homes, cpus, [0] * len(homes), nodes)) is None and cpus > 1:
        cpus -= 1
    if bundles is None:
        raise PlacementError(Problem("placement", f"{len(homes)} bundles of {cpus:g} core(s)", _FEWER))
    return Plan("cpu", layout, bundles, recipe.engines.threads or int(cpus), recipe.learners.threads or int(cpus))


def _gpu_plan(recipe: Recipe, nodes: list[tuple[float, int]]) -> Plan:
    engines, learners, width = recipe.engines.replicas, recipe.learners.replicas, recipe.engines.tensor_parallel
    total = sum(gpus for _, gpus in nodes)
    apart = engines * width + learners
    layout = recipe.placement.layout
    if layout == "auto":
        layout = "disaggregated" if total >= apart else "colocated"
    homes = _tenants(engines, learners, layout)
    gpus = [width if any(tenant.startswith("engine") for tenant in home) else 1 for home in homes]
    cores = sum(cpus for cpus, _ in nodes)
    cpus = max(1.0, min(8.0, cores // max(1, len(homes))))
    bundles = _fit(homes, cpus, gpus, nodes)
    if bundles is None:
        needs = f"{layout}: {sum(gpus)} GPU(s) in pieces of {sorted(set(gpus), reverse=True)} and {cpus:g} cores each"
        has = ", ".join(f"node {i}: {g} GPU(s), {c:g} cores" for i, (c, g) in enumerate(nodes))
        raise PlacementError(Problem("placement", f"needs {needs}; has {has}", _FEWER))
    return Plan("gpu", layout, bundles, recipe.engines.threads or int(cpus), recipe.learners.threads or int(cpus))


def _tenants(engines: int, learners: int, layout: str) -> list[tuple[str, ...]]:
    engine_names = [f"engine {index}" for index in range(engines)]
    learner_names = [f"learner {index}" for index in range(learners)]
    if layout == "disaggregated":
        return [(name,) for name in (*engine_names, *learner_names)]
    pairs = max(engines, learners)
    return [tuple(names[i] for names in (engine_names, learner_names) if i < len(names)) for i in range(pairs)]


def _fit(
    homes: Sequence[tuple[str, ...]], cpus: float, gpus: Sequence[int], nodes: Sequence[tuple[float, int]]
) -> list[Bundle] | None:
    """First fit, the widest bundles first; None if one does not fit."""
    free = [list(node) for node in nodes]
    placed: dict[int, Bundle] = {}
    for index in sorted(range(len(homes)), key=lambda i: -gpus[i]):
        node = next((n for n, (c, g) in enumerate(free) if c >= cpus and g >= gpus[index]), None)
        if node is None:
            return None
        free[node][0] -= cpus
        free[node][1] -= gpus[index]
        placed[index] = Bundle(homes[index], cpus, gpus[index], node)
    return [placed[index] for index in range(len(homes))]


_FEWER = (
    "lower engines.replicas, learners.replicas or engines.tensor_parallel, set placement.layout to "
    "colocated, or add nodes"
)
