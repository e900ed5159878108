"""GRPO: from the groups of a batch to the rows of an update.

Level 1 (``credit``) gives each call a return, level 2 (``advantage``) compares the rollouts of a
group. Groups are compared as they came; nothing is dropped between baseline and update.
"""

from __future__ import annotations

from collections.abc import Sequence

from al_ray.algorithms.advantages.group_relative import group_relative
from al_ray.algorithms.credit.reward_to_go import credit_of
from al_ray.algorithms.losses.clipped import ClippedPolicyGradient
from al_ray.algorithms.rows import build_rows
from al_ray.recipe import GrpoStage, SamplingSection
from al_ray.types import Row, Trajectory


def loss(stage: GrpoStage, sampling: SamplingSection) -> ClippedPolicyGradient:
    """The stage's loss for tokens drawn with ``sampling``, whose temperature the recipe pins."""
    assert sampling.temperature is not None
    return ClippedPolicyGradient(
        stage.clip_low, stage.clip_high, stage.kl_coefficient, temperature=sampling.temperature
    )


def rows(groups: Sequence[Sequence[Trajectory]], stage: GrpoStage) -> list[Row]:
    """Rows whose weights sum to 1; ``groups`` are the comparable rollouts of each task."""
    credit = credit_of(stage)
    trajectories: list[Trajectory] = []
    advantages: list[Sequence[float]] = []
    for group in groups:
        trajectories.extend(group)
        returns = [credit(trajectory) for trajectory in group]
        advantages.extend(group_relative(returns, stage.normalize_std))
    return build_rows(trajectories, advantages, stage.aggregate)
