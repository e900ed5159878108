"""Demonstrations as trajectories, so that imitation takes the same path as reinforcement."""

from __future__ import annotations

from collections.abc import Sequence

from al_ray.types import Task, Trajectory, Transition

TokenisedCall = tuple[Sequence[int], Sequence[int]]
"""Prompt ids and response ids of one assistant message."""


def demonstration(task: Task, calls: Sequence[TokenisedCall], policy: str = "", place: int = 0) -> Trajectory:
    """The rollout that a demonstrator would have had on ``task``, for a policy to learn from; each of its
    calls is worth 1. Of a task that a batch shows several times each is one, by its ``place`` there."""
    transitions = [
        Transition(
            id=f"{task.id}/{number}",
            agent="demonstration",
            prompt_ids=prompt_ids,
            response_ids=response_ids,
            logprobs=(),
            policy_version=0,
            policy=policy,
        )
        for number, (prompt_ids, response_ids) in enumerate(calls)
    ]
    return Trajectory(
        rollout_id=f"{task.id}/{place}",
        group=task.id,
        task_id=task.id,
        transitions=transitions,
        reward=1.0,
    )
