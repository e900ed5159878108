"""Soft over-long punishment: a response is the worse the nearer it comes to being cut off."""

from __future__ import annotations

from dataclasses import dataclass, replace

from al_ray.types import Trajectory, Transition


@dataclass(frozen=True, slots=True)
class Overlong:
    """Up to ``limit - margin`` tokens a response costs nothing, from there on evenly more, up to 1 at
    ``limit`` (DAPO, arXiv 2503.14476, equation 13). One that was cut off before, for the context or the agent
    left it less room, costs 1 too."""

    limit: int
    """Tokens at which a response is cut off, at the latest."""
    margin: int

    def __call__(self, trajectory: Trajectory) -> Trajectory:
        """With what its trained responses cost taken from them and from the episode's return."""
        costs = [self._cost(t) * t.trained for t in trajectory.transitions]
        transitions = [
            replace(t, reward=t.reward - cost) for t, cost in zip(trajectory.transitions, costs, strict=True)
        ]
        return replace(trajectory, transitions=transitions, reward=trajectory.reward - sum(costs))

    def _cost(self, response: Transition) -> float:
        if response.finish_reason == "length":
            return 1.0
        return min(max(len(response.response_ids) - (self.limit - self.margin), 0) / self.margin, 1.0)
