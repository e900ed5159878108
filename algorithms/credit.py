"""Credit assignment, level 1: from the return of an episode to the return of each of its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from al_ray.protocols import Credit
from al_ray.types import Trajectory


def identical(trajectory: Trajectory) -> Sequence[float]:
    """Every call receives the return of the whole episode (Agent Lightning, arXiv 2508.03680)."""
    return [trajectory.reward] * len(trajectory.transitions)


CREDITS: Mapping[str, Credit] = {"identical": identical}
"""What a recipe may name."""
