"""Which of a group's rollouts are worth imitating: its best."""

from __future__ import annotations

from collections.abc import Sequence

from al_ray.types import Trajectory


def best(group: Sequence[Trajectory], keep: int, threshold: float | None) -> list[Trajectory]:
    """The ``keep`` best with a return of at least ``threshold``, in the group's order; of equals, those that
    come first (RAFT, arXiv 2304.06767, algorithm 1, with the best of each prompt; with a threshold alone,
    ReST, arXiv 2308.08998).

    Without a threshold a rollout must be better than the worst: the best of equals is none, and imitating it
    would only sharpen what the policy does already.
    """
    if threshold is None:
        least = min(trajectory.reward for trajectory in group)
        worthy = [trajectory for trajectory in group if trajectory.reward > least]
    else:
        worthy = [trajectory for trajectory in group if trajectory.reward >= threshold]
    kept = {each.rollout_id for each in sorted(worthy, key=lambda each: -each.reward)[:keep]}
    return [trajectory for trajectory in worthy if trajectory.rollout_id in kept]
