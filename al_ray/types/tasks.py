"""Tasks: what an agent is given to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from al_ray.types.value import JSON, Value

Mode = Literal["train", "eval", "judge"]
"""What a rollout is for; one of a judge rewards those of a group."""


@dataclass(frozen=True, slots=True)
class Task(Value):
    """One input for the agent. ``data`` is JSON and is all that the agent sees of it."""

    id: str
    data: Mapping[str, JSON]
    split: str = "train"


@dataclass(frozen=True, slots=True)
class TaskSet(Value):
    """The tasks of a split, and how many rows gave none."""

    tasks: Sequence[Task]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """By reason, in the words that a user is told."""
    families: Mapping[str, str] = field(default_factory=dict)
    """By a task's id, a name for those that have so much in common that none of them may be held out while
    others are trained on: questions about one fact, say. A task that is not named is a family by itself;
    those that were left out may be named."""
