"""What is told of a batch of rollouts: pure functions from groups to plain numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from al_ray.types import AttemptStatus, Group, Rollout, RolloutStatus, Trajectory


def rollout_metrics(
    groups: Sequence[Group], trajectories: Sequence[Trajectory], policy_version: int
) -> dict[str, float]:
    """Rewards, lengths, failures by reason, and staleness at training time."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    calls = [call for trajectory in trajectories for call in trajectory.transitions]
    staleness = [policy_version - call.policy_version for call in calls]
    rewards = [trajectory.reward for trajectory in trajectories]
    return {
        "reward/mean": _mean(rewards),
        "reward/std": float(np.std(rewards)) if rewards else 0.0,
        "rollout/count": len(rollouts),
        "rollout/failed": sum(rollout.status is not RolloutStatus.SUCCEEDED for rollout in rollouts),
        "rollout/calls": _mean([len(trajectory.transitions) for trajectory in trajectories]),
        "rollout/prompt_tokens": _mean([len(call.prompt_ids) for call in calls]),
        "rollout/response_tokens": _mean(
            [sum(len(call.response_ids) for call in trajectory.transitions) for trajectory in trajectories]
        ),
        "rollout/truncated": _mean([float(call.finish_reason == "length") for call in calls]),
        "off_policy/staleness_mean": _mean(staleness),
        "off_policy/staleness_max": max(staleness, default=0),
        **{f"rollout/attempts_{status}": count for status, count in failed_attempts(rollouts).items()},
    }


def failed_attempts(rollouts: Sequence[Rollout]) -> Mapping[AttemptStatus, int]:
    """How many attempts ended otherwise than well, by how they ended."""
    statuses = Counter(attempt.status for rollout in rollouts for attempt in rollout.attempts)
    return {
        status: statuses[status]
        for status in AttemptStatus
        if status.ended and status is not AttemptStatus.SUCCEEDED and statuses[status]
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
