"""The algorithm of a stage: which parts it is made of, and the rows that they make of a batch.

Level 1 (``credit``) gives each call a return, level 2 (``advantages``) compares calls, ``losses`` says what a
token costs. The recipe chooses each by name, and ``al_ray.recipe.stages.NAMED`` says what the published
algorithms choose; any choice fits any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from al_ray.algorithms.advantages import Advantages, Comparison, advantages
from al_ray.algorithms.credit import Credit, credit_of
from al_ray.algorithms.credit.identical import alike, identical
from al_ray.algorithms.credit.layer import of_each
from al_ray.algorithms.distillation import TeachersGradient
from al_ray.algorithms.losses import SURROGATES, Correction, CrossEntropy, PolicyGradient
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.token import Loss
from al_ray.algorithms.overlong import Overlong
from al_ray.algorithms.rows import Aggregate, build_rows
from al_ray.recipe import (
    AnyStage,
    OnPolicyDistillationStage,
    ReinforcementStage,
    RejectionSamplingStage,
    SamplingSection,
    SupervisedStage,
)
from al_ray.types import Row, Trajectory


@dataclass(frozen=True, slots=True)
class Algorithm:
    """From the groups of a batch to the rows of an update, and their loss."""

    credit: Credit
    comparison: Comparison
    loss: Loss
    aggregate: Aggregate
    tokens: int = 0
    """What a rollout's sum is divided by where the aggregate is ``constant``."""
    overlong: Overlong | None = None

    def advantages(self, groups: Sequence[Sequence[Trajectory]]) -> list[Advantages]:
        """Those of the calls of each group, compared as they came."""
        if self.overlong is not None:
            groups = [[self.overlong(trajectory) for trajectory in group] for group in groups]
        return advantages(groups, [self.credit(group) for group in groups], self.comparison)

    def rows(self, groups: Sequence[Sequence[Trajectory]]) -> list[Row]:
        """``groups`` are the comparable rollouts of each task. Nothing is dropped between baseline and
        update."""
        return build_rows(
            [trajectory for group in groups for trajectory in group],
            [of_rollout for of_group in self.advantages(groups) for of_rollout in of_group],
            self.aggregate,
            self.tokens,
        )


def imitation(stage: SupervisedStage, sampling: SamplingSection) -> Algorithm:
    """The tokens of demonstrations, which nobody sampled, are made likelier: each call is worth 1, and is
    compared with nothing."""
    return Algorithm(
        credit=of_each(identical),
        comparison=Comparison("task", "none", "none"),
        loss=CrossEntropy(),
        aggregate=stage.aggregate,
    )


def reinforcement(stage: ReinforcementStage, sampling: SamplingSection) -> Algorithm:
    """What the stage's fields say."""
    assert sampling.temperature is not None, "the recipe pins it"
    correction = None
    if stage.correction != "none":
        correction = Correction(stage.correction, stage.correction_bound, stage.correction_cap)
    overlong = Overlong(sampling.max_tokens, stage.overlong_tokens) if stage.overlong_tokens else None
    return Algorithm(
        credit=credit_of(stage),
        comparison=Comparison(stage.compare, stage.baseline, stage.scale),
        loss=PolicyGradient(
            SURROGATES[stage.loss](stage),
            kl_coefficient=stage.kl_coefficient,
            kl_estimator=stage.kl_estimator,
            entropy_coefficient=stage.entropy_coefficient,
            correction=correction,
            temperature=sampling.temperature,
        ),
        aggregate=stage.aggregate,
        tokens=stage.constant_tokens or sampling.max_tokens,
        overlong=overlong,
    )


def rejection_sampling(stage: RejectionSamplingStage, sampling: SamplingSection) -> Algorithm:
    """The tokens of the rollouts that were kept are made likelier in the distribution that they were drawn
    from; each group counts the same."""
    assert sampling.temperature is not None, "the recipe pins it"
    return Algorithm(
        credit=of_each(alike),
        comparison=Comparison("task", "none", "none"),
        loss=CrossEntropy(temperature=sampling.temperature),
        aggregate="group_mean",
    )


def on_policy_distillation(stage: OnPolicyDistillationStage, sampling: SamplingSection) -> Algorithm:
    """Its advantages are those of the rewards; ``distillation`` adds what the teacher says."""
    return Algorithm(
        credit=of_each(identical),
        comparison=Comparison("task", "mean", "none"),
        loss=TeachersGradient(Clipped(0.2, 0.2)),
        aggregate=stage.aggregate,
    )


ALGORITHMS: Mapping[type, Callable[[Any, SamplingSection], Algorithm]] = {
    SupervisedStage: imitation,
    ReinforcementStage: reinforcement,
    RejectionSamplingStage: rejection_sampling,
    OnPolicyDistillationStage: on_policy_distillation,
}
"""By the type of the recipe's stage."""


def algorithm(stage: AnyStage, sampling: SamplingSection) -> Algorithm:
    """The algorithm of a stage whose calls are drawn with ``sampling``."""
    return ALGORITHMS[type(stage)](stage, sampling)
