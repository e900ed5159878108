"""Two evaluations task by task: what each task was worth in both, and how far the mean moved.

The tasks are the same, so their difficulty cancels out: the interval is that of the differences, and is
narrower than the two evaluations' own would let one think.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from al_ray.data.task_order import without_places
from al_ray.errors import Problem, UserError
from al_ray.evaluation.estimates import Estimate, estimate, paired
from al_ray.evaluation.scores import succeeds
from al_ray.rollouts.rewards import rewards
from al_ray.types import JSON, Rollout, RolloutStatus

_NAMED: Final = 5
"""Ids that are told of many."""


@dataclass(slots=True)
class TaskScores:
    """The samples of one task in one evaluation."""

    data: Mapping[str, JSON]
    scored: dict[str, Mapping[str, float]] = field(default_factory=dict)
    """What each sample that has a score was rewarded, by rollout."""
    unscored: int = 0

    def mean(self, name: str) -> float | None:
        """Over the samples that have the metric."""
        values = [given[name] for given in self.scored.values() if name in given]
        return math.fsum(values) / len(values) if values else None

    def solved(self, primary: str) -> bool:
        """Whether at least half of its samples succeed."""
        successes = sum(succeeds(given[primary]) for given in self.scored.values())
        return 2 * successes >= len(self.scored)


@dataclass(frozen=True, slots=True)
class Pair:
    """A task that both evaluations have a score of."""

    task: str
    first: TaskScores
    second: TaskScores
    primary: str

    @property
    def change(self) -> float:
        """Of the primary reward, from the first to the second."""
        first, second = self.first.mean(self.primary), self.second.mean(self.primary)
        assert first is not None and second is not None
        return second - first

    @property
    def flipped(self) -> bool:
        """One solves it, the other does not."""
        return self.first.solved(self.primary) is not self.second.solved(self.primary)


@dataclass(frozen=True, slots=True)
class Moved:
    """A metric in both evaluations, over the tasks that have it in both."""

    first: Estimate
    second: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two evaluations."""

    pairs: Sequence[Pair]
    """The flipped ones first, then by how far they moved."""
    metrics: Mapping[str, Moved]
    """The primary reward first."""
    left_out: Mapping[str, int]
    """Tasks that are not compared, by reason."""


def task_scores(rollouts: Iterable[Rollout], primary: str) -> Mapping[str, TaskScores]:
    """By task. A rollout has a score if it succeeded and was given the primary reward."""
    found: dict[str, TaskScores] = {}
    for rollout in rollouts:
        task = rollout.request.task
        scores = found.setdefault(task.id, TaskScores(task.data))
        given = rewards(rollout)
        if primary in given and rollout.status is RolloutStatus.SUCCEEDED:  # one may be told before it fails
            scores.scored[rollout.id] = given
        else:
            scores.unscored += 1
    return found


def compared(first: Mapping[str, TaskScores], second: Mapping[str, TaskScores], primary: str) -> Comparison:
    """Raises ``UserError`` where the two have no task in common that both have a score of."""
    both = [task for task in first if task in second]
    same = [task for task in both if without_places(first[task].data) == without_places(second[task].data)]
    pairs = [
        Pair(task, first[task], second[task], primary)
        for task in same
        if first[task].scored and second[task].scored
    ]
    left_out = {
        "only in the first": len(first) - len(both),
        "only in the second": len(second) - len(both),
        "of the same id, but with other data": len(both) - len(same),
        "without a score in one of them": len(same) - len(pairs),
    }
    left_out = {reason: count for reason, count in left_out.items() if count}
    if not pairs:
        told = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "neither has any"
        ids = f"{', '.join([*first][:_NAMED]) or 'none'}; {', '.join([*second][:_NAMED]) or 'none'}"
        raise UserError(Problem("tasks", ids, f"nothing can be compared: {told}"))
    names = {name for pair in pairs for given in pair.first.scored.values() for name in given}
    metrics = {}
    for name in sorted(names, key=lambda name: (name != primary, name)):
        means = [(pair.first.mean(name), pair.second.mean(name)) for pair in pairs]
        known = [(a, b) for a, b in means if a is not None and b is not None]
        if known:
            a, b = zip(*known, strict=True)
            metrics[name] = Moved(estimate(a), estimate(b), paired(a, b))
    pairs.sort(key=lambda pair: (not pair.flipped, -abs(pair.change)))
    return Comparison(pairs, metrics, left_out)
