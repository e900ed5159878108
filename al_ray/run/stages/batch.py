"""What a stage makes of a step's tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from al_ray.algorithms.losses.token import Loss
from al_ray.algorithms.passes import ONCE, Passes
from al_ray.rollouts.outcome import Outcome
from al_ray.types import Rollout, Row


@dataclass(frozen=True, slots=True)
class Batch:
    """What an update is made of."""

    rows: Sequence[Row]
    loss: Loss
    passes: Passes = ONCE
    metrics: Mapping[str, float] = field(default_factory=dict)
    examples: Sequence[Rollout] = ()
    """A few of its rollouts, for people to look at."""
    outcomes: Sequence[Outcome] = ()
    """How its rollouts ended."""
