"""Identical credit: every call receives the same."""

from __future__ import annotations

from collections.abc import Sequence

from al_ray.types import Trajectory


def identical(trajectory: Trajectory) -> Sequence[float]:
    """Every call receives the return of the whole episode (Agent Lightning, arXiv 2508.03680)."""
    return [trajectory.reward] * len(trajectory.transitions)
