"""The named algorithms: each chooses credit, advantage and loss, in a few lines.

Level 1 (``credit``) gives each call a return, level 2 (``advantages``) compares the rollouts of a
group, ``losses`` says what a token costs. Any choice fits any other: a new algorithm is a function here
and a line in ``ALGORITHMS``, under the name that a stage of a recipe has for it (``stages.algorithm``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from al_ray.algorithms.advantages import ADVANTAGES, Advantage
from al_ray.algorithms.credit import CREDITS
from al_ray.algorithms.losses import LOSSES
from al_ray.algorithms.losses.token import Loss
from al_ray.algorithms.rows import Aggregate, build_rows
from al_ray.protocols import Credit
from al_ray.recipe import AnyStage, GrpoStage, SamplingSection, SupervisedStage
from al_ray.types import Row, Trajectory


@dataclass(frozen=True, slots=True)
class Algorithm:
    """From the groups of a batch to the rows of an update, and their loss."""

    credit: Credit
    advantage: Advantage
    loss: Loss
    aggregate: Aggregate

    def rows(self, groups: Sequence[Sequence[Trajectory]]) -> list[Row]:
        """Rows whose weights sum to 1; ``groups`` are the comparable rollouts of each task. They are
        compared as they came; nothing is dropped between baseline and update."""
        trajectories: list[Trajectory] = []
        advantages: list[Sequence[float]] = []
        for group in groups:
            trajectories.extend(group)
            advantages.extend(self.advantage([self.credit(trajectory) for trajectory in group]))
        return build_rows(trajectories, advantages, self.aggregate)


def supervised(stage: SupervisedStage, sampling: SamplingSection) -> Algorithm:
    """Imitation: the tokens of demonstrations, which nobody sampled, are made likelier."""
    return Algorithm(
        credit=CREDITS["identical"](stage),
        advantage=ADVANTAGES["plain_return"](stage),
        loss=LOSSES["cross_entropy"](stage, 1.0),
        aggregate=stage.aggregate,
    )


def grpo(stage: GrpoStage, sampling: SamplingSection) -> Algorithm:
    """Group Relative Policy Optimization (arXiv 2402.03300), and Dr. GRPO where the stage says so."""
    assert sampling.temperature is not None, "the recipe pins it"
    return Algorithm(
        credit=CREDITS[stage.credit](stage),
        advantage=ADVANTAGES["group_relative"](stage),
        loss=LOSSES["clipped"](stage, sampling.temperature),
        aggregate=stage.aggregate,
    )


ALGORITHMS: Mapping[str, Callable[[Any, SamplingSection], Algorithm]] = {
    "supervised": supervised,
    "grpo": grpo,
}
"""By the recipe's name, each of a stage of its own kind."""


def algorithm(stage: AnyStage, sampling: SamplingSection) -> Algorithm:
    """The algorithm of a stage whose calls are drawn with ``sampling``."""
    return ALGORITHMS[stage.algorithm](stage, sampling)
