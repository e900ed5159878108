"""Identical credit: every call receives the same."""

from __future__ import annotations

from collections.abc import Sequence

from al_ray.types import Trajectory


def identical(trajectory: Trajectory) -> Sequence[float]:
    """Every call receives the return of the whole episode (Agent Lightning, arXiv 2508.03680)."""
    return [trajectory.reward] * len(trajectory.transitions)


def alike(trajectory: Trajectory) -> Sequence[float]:
    """Every call is worth 1, whatever the return: what was chosen to be imitated is imitated alike."""
    return [1.0] * len(trajectory.transitions)
