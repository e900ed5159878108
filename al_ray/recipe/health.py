"""When a run warns that it is not well."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from al_ray.recipe.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class HealthSection(Section):
    """The most of each that is well; beyond it, the run says what that means and what to do. All but the last
    are shares: 1 is never passed. What makes a run useless from its beginning, that all rollouts failed or
    none asked the model, ends it whatever stands here."""

    failed: Share = 0.2
    """Rollouts that failed."""
    without_calls: Share = 0.05
    """Rollouts in which the model answered no call."""
    equal_groups: Share = 0.8
    """Groups in which no rollout has an advantage, for their rewards are equal, of those that can be
    compared."""
    dropped_groups: Share = 0.5
    """Groups with fewer than two rollouts that can be compared."""
    too_long: Share = 0.2
    """Demonstrations longer than ``model.max_length``."""
    truncated: Share = 0.5
    """Answers that were cut off for want of room."""
    branches: Share = 0.3
    """Calls that could not begin with the tokens of the conversation that they continue."""
    idle_policies: Share = 0.0
    """Of several policies, those that answered no call."""
    entropy_fall: Share = 0.8
    """By how much the entropy has fallen since the first step of the stage."""
    wasted_tokens: Share = 0.8
    """Tokens that were sampled in rollouts without a gradient."""
    steps_refused: Share = 0.0
    """Optimizer steps of an update whose gradient was not finite."""
    mismatch_kl: Annotated[float, Field(gt=0)] = 0.05
    """Divergence of the learner from the sampler whose tokens it trains on, in nats."""
