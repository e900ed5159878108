"""What learners measure of the calls of a batch before credit is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from al_ray.types import Trajectory

CallId = tuple[str, int]
"""Of a call: its rollout's id, and which of the rollout's transitions it is."""


@dataclass(frozen=True, slots=True)
class Measured:
    """By trained call. What was not asked for is empty."""

    divergences: Mapping[CallId, float]
    """Estimates of KL(policy || reference), summed over the tokens of the response, in nats."""
    values: Mapping[CallId, float]
    """What the critic expects to be earned from this call on."""

    @classmethod
    def of(
        cls, calls: Sequence[CallId], divergences: Iterable[float] = (), values: Iterable[float] = ()
    ) -> Measured:
        """In the order of ``calls``; either may be empty."""
        return cls(*(dict(zip(calls, map(float, each), strict=False)) for each in (divergences, values)))

    def noted_in(self, trajectory: Trajectory, kl_coefficient: float) -> Trajectory:
        """The trajectory with the values. What the divergence of each trained response costs is taken from
        its reward and from the return."""
        ids = [(trajectory.rollout_id, number) for number in range(len(trajectory.transitions))]
        costs = [
            kl_coefficient * self.divergences.get(id, 0.0) if t.trained else 0.0
            for id, t in zip(ids, trajectory.transitions, strict=True)
        ]
        transitions = [
            replace(t, reward=t.reward - cost, value=self.values.get(id, 0.0))
            for id, t, cost in zip(ids, trajectory.transitions, costs, strict=True)
        ]
        return replace(trajectory, transitions=transitions, reward=trajectory.reward - sum(costs))
