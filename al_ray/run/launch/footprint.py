"""What a run will hold in memory on the machines that it is planned for, and what it says of that."""

from __future__ import annotations

import os
from pathlib import Path

from al_ray.machines import devices
from al_ray.machines.plan import Plan
from al_ray.machines.precision import dtype_of
from al_ray.models import memory
from al_ray.recipe import Recipe


def memory_of(recipe: Recipe, plan: Plan, model: Path) -> memory.Estimate | None:
    """``model`` is its folder; None where that does not tell the model's sizes. Raises ``PlacementError``
    where a learner cannot fit."""
    sizes = memory.sizes_of(model)
    if sizes is None:
        return None
    return memory.estimate(recipe, plan, sizes, dtype_of(recipe, plan.device), _memory(recipe, plan))


def _memory(recipe: Recipe, plan: Plan) -> int:
    """Bytes of a GPU, as those of this machine are, or of this machine, where learners will be on it; 0: of
    what nobody here can see."""
    if recipe.placement.cluster:
        return 0
    if plan.device == "gpu":
        return min((gpu.memory for gpu in devices.gpus()), default=0)
    return 0 if os.environ.get("RAY_ADDRESS") else devices.memory()


def memory_lines(recipe: Recipe, plan: Plan, model: Path) -> list[str]:
    """For whoever starts a run, with what it computes in."""
    estimate = memory_of(recipe, plan, model)
    computing = f"computing in {dtype_of(recipe, plan.device)} on {plan.device}"
    if estimate is None:
        return [computing]
    layers = ", layers computed again in the backward pass" if estimate.recompute else ""
    return [computing + layers, *estimate.lines()]
