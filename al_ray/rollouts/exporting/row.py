"""A rollout as one row of a table: what an export of rollouts has of each, and what programs are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from al_ray.rollouts.rewards import rewards
from al_ray.types import JSON, Attempt, Rollout

ATTEMPT: Final = ("number", "status", "worker", "started_at", "ended_at", "error", "output")
"""What is told of an attempt; its key is nobody's business."""


def head(rollout: Rollout) -> dict[str, JSON]:
    """What tells which rollout it is."""
    request = rollout.request
    return {
        "rollout_id": request.id,
        "batch": request.batch,
        "group": request.group,
        "mode": request.mode,
        "status": str(rollout.status),
        "task_id": request.task.id,
    }


def rollout_row(rollout: Rollout, dimension: str) -> Mapping[str, JSON]:
    """With its attempts and its rewards; ``dimension`` is that which is learnt from."""
    given = rewards(rollout)
    return {
        **head(rollout),
        "task_split": rollout.request.task.split,
        "task_data": json_text(rollout.request.task.data),
        "reward": given.get(dimension),
        "rewards": json_text(given),
        "attempts": [_attempt(attempt) for attempt in rollout.attempts],
    }


def json_text(value: Any) -> str:
    """What has no fixed shape is text, which is never null."""
    return orjson.dumps(value).decode()


def _attempt(attempt: Attempt) -> dict[str, JSON]:
    told = {name: getattr(attempt, name) for name in ATTEMPT}
    return told | {"error": attempt.error or "", "output": json_text(attempt.output)}
