"""The stages of a recipe: what is learnt one after the other, and by which algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field

from al_ray.recipe.section import DottedPath, Fraction, Positive, Section


class OptimizerSection(Section):
    learning_rate: Annotated[float, Field(gt=0)]
    """Peak, AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls from its peak to 0 over the stage's steps, after ``warmup_steps``."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear rise from 0 to the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled, on matrices only."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW's."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this global norm."""


class Stage(Section):
    steps: Positive
    """Batches, each followed by an update."""
    optimizer: OptimizerSection
    """Fresh at the start of the stage."""


class SupervisedStage(Stage):
    """Imitates demonstrations: cross-entropy on the assistant's tokens."""

    algorithm: Literal["supervised"]
    """Names the stage."""
    demonstrate: DottedPath
    """The environment's writer of demonstrations."""
    tasks_per_step: Positive = 16
    """Demonstrations in a batch."""
    aggregate: Literal["rollout_mean", "token_mean"] = "token_mean"
    """What the loss is a mean over."""


class GrpoStage(Stage):
    """Reinforcement learning from groups of rollouts of one task (GRPO and its kin)."""

    algorithm: Literal["grpo"]
    """Names the stage."""
    groups_per_step: Positive = 8
    """Tasks in a batch."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts of each task."""
    credit: Literal["identical", "reward_to_go"] = "identical"
    """Level 1: which return each call of a rollout receives. identical: the whole episode's.
    reward_to_go: what it and the calls after it earned."""
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With reward_to_go, what a reward one call later counts."""
    normalize_std: bool = True
    """Divide a group's advantages by the standard deviation of its returns. False: Dr. GRPO."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The probability ratio is clipped at 1 - clip_low."""
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """... and at 1 + clip_high."""
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the k3 estimate of KL(policy || weights at the start of the stage). 0: none, and no
    reference model is kept."""
    aggregate: Literal["rollout_mean", "token_mean"] = "rollout_mean"
    """What the loss is a mean over."""


AnyStage = Annotated[SupervisedStage | GrpoStage, Field(discriminator="algorithm")]
STAGES: Mapping[str, type[Stage]] = {
    get_args(kind.model_fields["algorithm"].annotation)[0]: kind for kind in get_args(get_args(AnyStage)[0])
}
"""The kinds of stages by the name of their algorithm."""
