"""Final credit: the last call alone answers for the episode."""

from __future__ import annotations

from collections.abc import Sequence

from al_ray.types import Trajectory


def final(trajectory: Trajectory) -> Sequence[float | None]:
    """The last trained call receives the return of the whole episode, all its choices alike, and the calls
    before it none: outcome reward in the narrow sense, the control for every credit that spreads it."""
    last = next((t.of_call for t in reversed(trajectory.transitions) if t.trained), None)
    return [trajectory.reward if t.of_call == last else None for t in trajectory.transitions]
