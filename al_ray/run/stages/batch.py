"""What a stage makes of a step's tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from al_ray.algorithms.passes import ONCE, Passes
from al_ray.rollouts.outcome import Outcome
from al_ray.types import Rollout, Row

if TYPE_CHECKING:
    import numpy as np

    from al_ray.actors.learner.observing import Observations
    from al_ray.algorithms.losses.token import Loss


class Measures(Protocol):
    """What a batch is made with of the policy that learns from it."""

    @property
    def served_version(self) -> int:
        """The version that its calls were answered with."""

    async def observe(
        self, rows: Sequence[Row], loss: Loss, estimator: str | None, *, features: bool
    ) -> Observations: ...

    async def critic_values(self, features: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a critic is to learn of a batch's calls."""

    features: np.ndarray
    """Of each, ``[C, F]``."""
    targets: np.ndarray
    """What it was worth, ``[C]``."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What an update is made of."""

    rows: Sequence[Row]
    loss: Loss
    passes: Passes = ONCE
    lesson: Lesson | None = None
    """The critic's, where there is one: it learns with the update."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    examples: Sequence[Rollout] = ()
    """A few of its rollouts, for people to look at."""
    outcomes: Sequence[Outcome] = ()
    """How its rollouts ended."""
