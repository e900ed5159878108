"""Soft over-long punishment: a response is the worse the nearer it comes to being cut off."""

from __future__ import annotations

from dataclasses import dataclass, replace

from al_ray.types import Trajectory


@dataclass(frozen=True, slots=True)
class Overlong:
    """Up to ``limit - margin`` tokens a response costs nothing, from there on evenly more, up to 1 at
    ``limit`` (DAPO, arXiv 2503.14476, equation 13)."""

    limit: int
    """Tokens at which a response is cut off."""
    margin: int

    def __call__(self, trajectory: Trajectory) -> Trajectory:
        """With what its trained responses cost taken from them and from the episode's return."""
        costs = [self._cost(len(t.response_ids)) * t.trained for t in trajectory.transitions]
        transitions = [
            replace(t, reward=t.reward - cost) for t, cost in zip(trajectory.transitions, costs, strict=True)
        ]
        return replace(trajectory, transitions=transitions, reward=trajectory.reward - sum(costs))

    def _cost(self, tokens: int) -> float:
        return min(max(tokens - (self.limit - self.margin), 0) / self.margin, 1.0)
