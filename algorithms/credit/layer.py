"""What credit gives: the returns of a group's calls, in layers that are compared each for itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from al_ray.types import Trajectory

Returns = Sequence[Sequence[float | None]]
"""``returns[rollout][call]``, a call being a transition. None: the call takes no part."""
Keys = Sequence[Sequence[tuple[Hashable, ...]]]
"""Of the same shape: calls with the same key are compared with each other."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A call's advantage is the sum over the layers, each by its weight."""

    returns: Returns
    keys: Keys | None = None
    """None: as the stage compares."""
    widen: bool = True
    """A call that is alone with its key is compared by a shorter key. False: it takes no part."""
    weight: float = 1.0
    baseline: str = "none"
    """What its returns are measured from where the stage's baseline is none."""


Credit = Callable[[Sequence[Trajectory]], Sequence[Layer]]
"""Level 1, episode to call, for the rollouts of one group."""


def of_each(credit: Callable[[Trajectory], Sequence[float | None]]) -> Credit:
    """Credit that looks at one rollout at a time."""
    return lambda group: [Layer([credit(trajectory) for trajectory in group])]
