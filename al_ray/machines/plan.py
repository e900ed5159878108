"""The placement planner: a recipe and the nodes there are -> bundles, or what is missing.

Pure: it neither asks Ray nor starts anything. ``al_ray.machines.placement`` makes the placement
groups of a plan.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from al_ray.errors import PlacementError, Problem
from al_ray.machines.devices import nvidia_gpus
from al_ray.recipe import NodeShape, Recipe

Device = Literal["cpu", "gpu"]
Layout = Literal["colocated", "disaggregated"]

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_NO_ROOM = "none of it"
_MAX_CORES_BESIDE_A_GPU = 8
"""What the processes beside a GPU can use; the rest is left to the agents."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Resources on one node and who lives there; several tenants take turns on them."""

    tenants: tuple[str, ...]
    """For example ``("engine 0", "learner 0")``."""
    cpus: int
    gpus: int
    node: int | None
    """Which of the nodes it fits on. Ray may choose others, but keeps bundles of one node together. None: one
    that has room for it, or will."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where engines and learners go. Store, gateways and the runners that a run begins with live beside the
    driver."""

    device: Device
    layout: Layout
    bundles: Sequence[Bundle]
    engine_threads: int
    learner_threads: int
    more: Sequence[Bundle] = ()
    """Of engines that are started where and when there is room."""

    @property
    def one_node(self) -> bool:
        """Whether all of it is on one node, and stays together wherever that is."""
        return not self.more and len({bundle.node for bundle in self.bundles}) == 1

    @property
    def gpus(self) -> int:
        """That it holds all the time."""
        return sum(bundle.gpus for bundle in self.bundles)

    def tenants(self, role: str) -> Sequence[str]:
        """Their names, those of a role."""
        return [name for bundle in self.bundles for name in bundle.tenants if name.startswith(role)]


def this_machine() -> list[NodeShape]:
    """What this process may use of the machine that it runs on, as a cluster of one node."""
    return [NodeShape(cpus=usable_cores(), gpus=nvidia_gpus())]


def usable_cores(groups: Path = _CONTROL_GROUPS) -> int:
    """Those of the machine that this process may run on, which batch systems limit, as far as a container's
    share of them allows."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (groups / "cpu.max").read_text().split()  # "max" is no number
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def plan(recipe: Recipe, cluster: Sequence[NodeShape]) -> Plan:
    """Raises ``PlacementError`` that says what the recipe needs, what the cluster has, and what it has room
    for."""
    nodes = [(shape.cpus, shape.gpus) for shape in cluster for _ in range(shape.count)]
    wanted = recipe.placement.device
    device: Device = ("gpu" if any(gpus for _, gpus in nodes) else "cpu") if wanted == "auto" else wanted
    for layout in _layouts(recipe, device):
        homes = _homes(recipe.engines.replicas, recipe.learners.replicas, layout)
        width = recipe.engines.tensor_parallel if device == "gpu" else 0
        gpus = [_gpus(home, width) for home in homes]
        # Beside GPUs that are free, cores are left for the engines that may come to them.
        sharers = len(homes) + (recipe.engines.more if device == "gpu" else 0)
        share = max(1, sum(cpus for cpus, _ in nodes) // sharers)
        for cpus in range(min(share, _MAX_CORES_BESIDE_A_GPU) if device == "gpu" else share, 0, -1):
            if bundles := _fit(homes, cpus, gpus, nodes):
                threads = recipe.engines.threads or cpus, recipe.learners.threads or cpus
                return Plan(device, layout, bundles, *threads, _more(recipe, device, cpus))
    roles = [" + ".join(tenant.split()[0] for tenant in home) for home in homes]
    needs = _counted(f"({role}: 1 core, {g} GPU)" for role, g in zip(roles, gpus, strict=True))
    has = _counted(f"({cpus} core, {gpus} GPU)" for cpus, gpus in nodes) or "nothing"
    room = _room(recipe, device, nodes)
    narrow = [key for key in ("device", "layout") if getattr(recipe.placement, key) != "auto"]
    ways = [
        *["set these"] * (room != _NO_ROOM),
        *(f"set placement.{key} to auto" for key in narrow),
        "add nodes",
    ]
    cure = f"is needed, the nodes have {has}; there is room for {room}: {', or '.join(ways)}"
    raise PlacementError(Problem("placement", f"{layout} on {device}: {needs}", cure))


def _room(recipe: Recipe, device: Device, nodes: Sequence[tuple[int, int]]) -> str:
    """What there is room for, no more of anything than the recipe asks: wide engines, then many learners,
    then many engines."""
    cores = sum(cpus for cpus, _ in nodes)
    most_learners, most_engines = min(recipe.learners.replicas, cores), min(recipe.engines.replicas, cores)

    def fits(engines: int, learners: int, width: int) -> bool:
        """In any layout that fewer of them may have: they may share where more could not."""
        try:
            layouts = _layouts(_with(recipe, engines, learners, max(1, width)), device)
        except PlacementError:  # with fewer than engines.max_replicas they may not share
            return False
        homes = [_homes(engines, learners, layout) for layout in layouts]
        return any(_fit(each, 1, [_gpus(home, width) for home in each], nodes) for each in homes)

    widest = recipe.engines.tensor_parallel if device == "gpu" else 0
    for width in range(widest, -1 if device == "cpu" else 0, -1):
        learners = _most(most_learners, lambda count: fits(1, count, width))  # noqa: B023
        if learners:
            # A learner hands weights over to an engine on its own device.
            colocated = device == "gpu" and recipe.placement.layout == "colocated"
            limit = min(most_engines, learners) if colocated else most_engines
            engines = _most(limit, lambda count: fits(count, learners, width))  # noqa: B023
            wide = f", engines.tensor_parallel={width}" if width < widest else ""
            return f"engines.replicas={engines}, learners.replicas={learners}{wide}"
    return _NO_ROOM


def _with(recipe: Recipe, engines: int, learners: int, width: int) -> Recipe:
    changed = {"replicas": engines, "tensor_parallel": width}
    return recipe.model_copy(
        update={
            "engines": recipe.engines.model_copy(update=changed),
            "learners": recipe.learners.model_copy(update={"replicas": learners}),
        }
    )


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``limit`` that fits, where each smaller one does."""
    return bisect_left(range(1, limit + 1), True, key=lambda count: not fits(count))


def _layouts(recipe: Recipe, device: Device) -> Sequence[Layout]:
    """Those to try, the best first. Raises ``PlacementError`` where none can be on any cluster."""
    layout, width = recipe.placement.layout, recipe.engines.tensor_parallel
    if device == "cpu":
        if width > 1:
            cure = "is 1 on CPU; use engines.replicas to use more cores"
            raise PlacementError(Problem("engines.tensor_parallel", width, cure))
        return ["colocated" if layout == "auto" else layout]
    # A learner hands weights over within its device: to an engine that has no other device.
    alone = width > 1 or recipe.engines.more > 0
    can_share = not alone and recipe.engines.replicas <= recipe.learners.replicas
    if layout == "auto":
        return ["disaggregated", "colocated"] if can_share else ["disaggregated"]
    if layout == "colocated" and not can_share:
        cure = "on GPU, needs engines.tensor_parallel 1, no engines.max_replicas, and a learner for each "
        cure += "engine: learners.replicas at least engines.replicas; or set layout to disaggregated"
        raise PlacementError(Problem("placement.layout", layout, cure))
    return [layout]


def _homes(engines: int, learners: int, layout: Layout) -> list[tuple[str, ...]]:
    """Who lives together."""
    engine_names = [f"engine {index}" for index in range(engines)]
    learner_names = [f"learner {index}" for index in range(learners)]
    if layout == "disaggregated":
        return [(name,) for name in (*engine_names, *learner_names)]
    pairs = zip_longest(engine_names, learner_names)
    return [tuple(name for name in pair if name is not None) for pair in pairs]


def _more(recipe: Recipe, device: Device, cpus: int) -> Sequence[Bundle]:
    """Of the engines that may come, each like the first, and on CPU no larger than it has threads."""
    engines = recipe.engines
    if device == "cpu" and engines.threads:
        cpus = min(cpus, engines.threads)
    gpus = engines.tensor_parallel if device == "gpu" else 0
    names = (f"engine {index}" for index in range(engines.replicas, engines.replicas + engines.more))
    return [Bundle((name,), cpus, gpus, None) for name in names]


def more_runners(recipe: Recipe) -> Sequence[Bundle]:
    """Of the runners that may come."""
    agent = recipe.agent
    names = (f"runner {index}" for index in range(agent.runners, agent.runners + agent.more_runners))
    return [Bundle((name,), agent.runner_cpus, 0, None) for name in names]


def _gpus(home: tuple[str, ...], width: int) -> int:
    """Of an engine that is so wide; 0: there are none."""
    return width if any(tenant.startswith("engine") for tenant in home) else min(width, 1)


def _counted(things: Iterable[str]) -> str:
    return ", ".join(f"{number} x {thing}" for thing, number in Counter(things).items())


def _fit(
    homes: Sequence[tuple[str, ...]], cpus: int, gpus: Sequence[int], nodes: Sequence[tuple[int, int]]
) -> list[Bundle] | None:
    """The widest bundles first, each on the first of the nodes on which it leaves the most of its room to
    others. None if they do not fit.

    There are but two widths, engines' and 1. What a node has room for beside its engines falls the faster the
    more they are, so taking the cheapest place each time leaves as much as any choice does.
    """
    free = [list(node) for node in nodes]
    placed: dict[int, Bundle] = {}
    least = min(gpus)

    def room(cores: int, devices: int) -> int:
        """How many of the narrowest bundles."""
        return min(cores // cpus, devices // least) if least else cores // cpus

    for index in sorted(range(len(homes)), key=lambda i: -gpus[i]):
        fitting = (n for n, (c, g) in enumerate(free) if c >= cpus and g >= gpus[index])
        cost = {n: room(*free[n]) - room(free[n][0] - cpus, free[n][1] - gpus[index]) for n in fitting}
        if not cost:
            return None
        node = min(cost, key=cost.__getitem__)
        free[node][0] -= cpus
        free[node][1] -= gpus[index]
        placed[index] = Bundle(homes[index], cpus, gpus[index], node)
    return [placed[index] for index in range(len(homes))]
