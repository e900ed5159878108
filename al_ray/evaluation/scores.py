"""Scores of an evaluation: from what each rollout was rewarded to estimates over tasks.

Pure functions. A rollout that failed has no score and is counted by its reason; where that is the model's
doing, a second mean counts it as worth ``transitions.failed_reward``, or 0. Each task counts once, by the
mean of those of its samples that have a score.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson

from al_ray.errors import UnreadableError
from al_ray.evaluation.estimates import Estimate, estimate, pass_at_k
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.outcome import Outcome, outcome_of
from al_ray.rollouts.trajectory import trajectory
from al_ray.types import JSON, Attempt, AttemptStatus, Rollout, RolloutStatus, Task, Trajectory

SUCCESS: Final = 1.0
"""A rollout is a success, for pass@k and avg@k, if its primary reward is at least this."""
_ROUNDING: Final = 1e-9
"""0.9 + 0.1 is a success, in whatever order it was added up."""

_log = logging.getLogger(__name__)

Scores = Mapping[str, Estimate]
"""By name: the primary reward, the other metrics, ``avg@8``, ``pass@1``, ``pass@2`` and so on."""


@dataclass(frozen=True, slots=True)
class Result:
    """One rollout of an evaluation, ended; without its tokens, of which an evaluation may have millions."""

    task: Task
    group: str
    """The samples of a task share it."""
    episode: Trajectory | None
    """None if it failed."""
    outcome: Outcome
    """How it ended, as far as health goes."""
    output: JSON = None
    """What the agent returned."""
    failure: str | None = None
    """Why it has no score."""
    failed_reward: float | None = None
    """What it is worth although it failed, since that was the model's doing."""

    @property
    def rewards(self) -> Mapping[str, float]:
        """None where it has no score."""
        return {} if self.episode is None or self.failure else self.episode.rewards


def result_of(rollout: Rollout, settings: TransitionsSection, model: str) -> Result:
    """What counts of an ended rollout; ``model`` is the name of the one that is evaluated."""
    task, group, outcome = rollout.request.task, rollout.request.group, outcome_of(rollout, model)
    if rollout.status is not RolloutStatus.SUCCEEDED:
        worth = (settings.failed_reward or 0.0) if outcome.by_model else None
        reason = _reason(rollout.status, rollout.attempts)
        return Result(task, group, None, outcome, failure=reason, failed_reward=worth)
    try:
        episode = trajectory(rollout, settings)
    except UnreadableError as error:
        _log.warning("%s", error, exc_info=error)
        return Result(task, group, None, outcome, failure="unreadable spans")
    light = [replace(t, prompt_ids=(), response_ids=(), logprobs=()) for t in episode.transitions]
    missing = None if settings.reward in episode.rewards else f"no reward {settings.reward!r}"
    output = rollout.attempts[-1].output
    return Result(task, group, replace(episode, transitions=light), outcome, output, missing)


def scores(results: Sequence[Result], primary: str, samples: int) -> Scores:
    """Of every metric that a rollout was given, the ``primary`` first; of several ``samples`` also how
    often they succeed. Empty if nothing has a score."""
    names = sorted({name for result in results for name in result.rewards})
    names.sort(key=lambda name: name != primary)
    found = {name: estimate([*task_means(results, name).values()]) for name in names}
    if found and any(result.failed_reward is not None for result in results):
        found |= _with_failed(results, primary)
    if found and samples > 1:
        given = _by_task((result.task, result.rewards.get(primary)) for result in results)
        found |= _of_successes([*given.values()], samples)
    return found


def task_means(results: Iterable[Result], name: str) -> Mapping[str, float]:
    """The mean of a metric over the samples of a task that have it, by the task's id; tasks without any are
    left out."""
    return _means((result.task, result.rewards.get(name)) for result in results)


def succeeds(reward: float) -> bool:
    """Whether a rollout with this primary reward is a success."""
    return reward >= SUCCESS - _ROUNDING


def _with_failed(results: Sequence[Result], primary: str) -> Scores:
    """The primary reward once more, with what those are worth that failed by the model's doing: without them
    a policy looks the better the more often it breaks its agent."""
    worth = ((result.task, result.rewards.get(primary, result.failed_reward)) for result in results)
    return {f"{primary}_with_failed": estimate([*_means(worth).values()])}


def by_key(results: Sequence[Result], key: str, primary: str, samples: int) -> Mapping[str, Scores]:
    """The scores of the tasks that have the same value at ``key`` of their data, numbers ascending; a
    task without it is under ``null``."""
    parts: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: _order(result.task.data.get(key))):
        parts.setdefault(_text(result.task.data.get(key)), []).append(result)
    return {value: scores(part, primary, samples) for value, part in parts.items()}


def failures(results: Sequence[Result]) -> Mapping[str, int]:
    """Rollouts without a score by reason, the most frequent first."""
    return dict(Counter(result.failure for result in results if result.failure).most_common())


def _order(value: JSON) -> tuple[float, str]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (value if is_number else math.inf), _text(value)


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _by_task(samples: Iterable[tuple[Task, float | None]]) -> Mapping[str, Sequence[float]]:
    """The numbers of each task's samples, as far as they have one."""
    found: dict[str, list[float]] = {}
    for task, value in samples:
        if value is not None:
            found.setdefault(task.id, []).append(value)
    return found


def _means(samples: Iterable[tuple[Task, float | None]]) -> Mapping[str, float]:
    return {task: math.fsum(values) / len(values) for task, values in _by_task(samples).items()}


def _of_successes(rewards: Sequence[Sequence[float]], samples: int) -> Scores:
    """A task of which fewer than k samples have a score says nothing of pass@k, and is left out there."""
    counts = [(len(given), sum(map(succeeds, given))) for given in rewards]
    found = {f"avg@{samples}": estimate([successes / count for count, successes in counts])}
    k = 1
    while k <= samples:
        values = [pass_at_k(count, successes, k) for count, successes in counts if count >= k]
        if values:
            found[f"pass@{k}"] = estimate(values)
        k *= 2
    return found


def _reason(status: RolloutStatus, attempts: Sequence[Attempt]) -> str:
    """How its last attempt ended: the class of the error where there is one."""
    if not attempts:
        return str(status)
    last = attempts[-1]
    return (last.error_class if last.status is AttemptStatus.FAILED else None) or str(last.status)
