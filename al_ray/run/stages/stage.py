"""A stage as the driver sees it, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from al_ray.actors.learner.spec import StageSpec
from al_ray.recipe import (
    OnPolicyDistillationStage,
    Recipe,
    ReinforcementStage,
    RejectionSamplingStage,
    SupervisedStage,
)
from al_ray.recipe.schedule import StageSpan
from al_ray.run.agents import Agents
from al_ray.run.policy import Policy
from al_ray.run.stages.batch import Batch
from al_ray.run.stages.distillation import Distillation
from al_ray.run.stages.reinforcement import Reinforcement
from al_ray.run.stages.rejection_sampling import RejectionSampling
from al_ray.run.stages.supervision import Supervision
from al_ray.types import Task


class Stage(Protocol):
    """Makes the batch of each step. What it makes is a function of the recipe, the step, and what agents
    do: a run that goes on after a restart makes the same."""

    @property
    def spec(self) -> StageSpec:
        """What the learners keep for it."""
        ...

    @property
    def needs_served_weights(self) -> bool:
        """Whether the engines must have the learners' weights before a batch is made."""
        ...

    async def batch(
        self, step: int, agents: Agents, policy: Policy, progress: Callable[[int, int], None]
    ) -> Batch:
        """That of a global step. ``progress`` is told how many rollouts have ended, of how many. Rollouts of
        later steps may go on when it returns."""
        ...

    async def leave(self) -> None:
        """Nothing is waited for any more: the run leaves the stage, at its end or before."""
        ...


STAGES: Mapping[type, Callable[[Recipe, Any, StageSpan, Sequence[Task]], Stage]] = {
    ReinforcementStage: Reinforcement,
    RejectionSamplingStage: RejectionSampling,
    OnPolicyDistillationStage: Distillation,
    SupervisedStage: Supervision,
}
"""By the type of the recipe's stage."""


def stage_of(recipe: Recipe, span: StageSpan, tasks: Sequence[Task]) -> Stage:
    """The recipe's stage, over its training tasks."""
    return STAGES[type(span.stage)](recipe, span.stage, span, tasks)
