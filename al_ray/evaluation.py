"""Evaluation: one rollout of each held-out task, and how often it went well."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from al_ray.config import Recipe, TransitionsSection
from al_ray.parts import Parts
from al_ray.trajectory import require_named, trajectory
from al_ray.types import Group, RolloutRequest, RolloutStatus, Task


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean reward over held-out tasks; for a reward of 0 or 1 that is accuracy."""

    accuracy: float
    stderr: float
    """Standard error of the mean over tasks."""
    tasks: int
    """Those that were rewarded; one that failed for want of an answer has no reward."""
    failed: int


async def evaluate(
    recipe: Recipe, parts: Parts, tasks: Sequence[Task], step: int, progress: Callable[[int, int], None]
) -> Evaluation:
    """Run the agent once on each task with the evaluation's sampling, after ``step`` global steps."""
    batch = f"eval/step-{step:06d}"
    requests = [
        RolloutRequest(
            id=f"{batch}/{position}",
            batch=batch,
            group=f"{batch}/{position}",
            task=task,
            mode="eval",
            retry=recipe.agent.retry.policy,
        )
        for position, task in enumerate(tasks)
    ]
    groups: list[Group] = []
    async for ended in parts.rollouts(requests):
        groups += ended
        progress(len(groups), len(requests))
    return summary(groups, recipe.transitions)


def summary(groups: Sequence[Group], settings: TransitionsSection) -> Evaluation:
    """Accuracy and its standard error, ``std / sqrt(n)`` with the sample deviation."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    episodes = [trajectory(r, settings) for r in rollouts if r.status is RolloutStatus.SUCCEEDED]
    require_named(settings, episodes)
    rewards = [episode.reward for episode in episodes if settings.reward in episode.rewards]
    if not rewards:
        return Evaluation(math.nan, math.nan, 0, len(rollouts))
    stderr = float(np.std(rewards, ddof=1) / math.sqrt(len(rewards))) if len(rewards) > 1 else math.nan
    return Evaluation(float(np.mean(rewards)), stderr, len(rewards), len(rollouts) - len(rewards))
