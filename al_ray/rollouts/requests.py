"""What is asked for of tasks: rollouts in groups, whose ids are functions of batch and place alone, so that
asking twice is asking once."""

from __future__ import annotations

from collections.abc import Sequence

from al_ray.recipe import Recipe
from al_ray.types import Mode, RolloutRequest, Task


def rollout_requests(
    recipe: Recipe, batch: str, tasks: Sequence[Task], members: int, mode: Mode
) -> list[RolloutRequest]:
    """A group of ``members`` rollouts of each task."""
    return [
        RolloutRequest(
            id=f"{batch}/{position}/{member}",
            batch=batch,
            group=f"{batch}/{position}",
            task=task,
            mode=mode,
            retry=recipe.agent.retry.policy,
        )
        for position, task in enumerate(tasks)
        for member in range(members)
    ]
