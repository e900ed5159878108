"""Two evaluations of the same tasks, from what was recorded of them to what is said of their difference."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from al_ray.errors import UserError
from al_ray.evaluation.comparison import TaskScores, compared, task_scores
from al_ray.traces import semconv
from al_ray.types import Rollout, RolloutRequest, RolloutStatus, Span, SpanKind, Task


def scores(**tasks: list[float | None]) -> Mapping[str, TaskScores]:
    return {
        name: TaskScores(
            {"question": name},
            {f"{name}/{i}": {"reward": given} for i, given in enumerate(samples) if given is not None},
            samples.count(None),
        )
        for name, samples in tasks.items()
    }


def test_a_rollout_that_failed_has_no_score_whatever_reward_its_agent_had_told() -> None:
    given = Span("w", "r", 1, SpanKind.REWARD, "reward", 9.0, 9.0, {semconv.REWARD: 1.0}, 9)
    request = RolloutRequest("r", "b", "g", Task("t", {}))
    statuses = (RolloutStatus.SUCCEEDED, RolloutStatus.FAILED, RolloutStatus.CANCELLED)
    found = task_scores([Rollout(request, status, (), [given]) for status in statuses], "reward")
    assert (len(found["t"].scored), found["t"].unscored) == (1, 2)


def test_tasks_are_compared_one_by_one() -> None:
    """Those that both have a score of; the others are counted by reason. Flipped ones come first."""
    first = scores(a=[1.0], b=[0.0], c=[0.5], d=[None], e=[1.0, 0.0, 0.0])
    second = scores(a=[0.0], b=[1.0], c=[0.75], d=[1.0], e=[1.0, 1.0, None], f=[1.0])
    found = compared(first, second, "reward")
    assert [pair.task for pair in found.pairs] == ["a", "b", "e", "c"]
    assert [pair.flipped for pair in found.pairs] == [True, True, True, False]
    assert [pair.change for pair in found.pairs] == pytest.approx([-1, 1, 2 / 3, 0.25])
    moved = found.metrics["reward"]
    assert moved.difference.value == pytest.approx(moved.second.value - moved.first.value)
    assert moved.difference.tasks == 4
    assert found.left_out == {"only in the second": 1, "without a score in one of them": 1}


def test_evaluations_of_other_tasks_are_refused() -> None:
    """A task of the same id whose data are others is another task."""
    with pytest.raises(
        UserError, match=re.escape("tasks: 'a; b': nothing can be compared: 1 only in the first")
    ):
        compared(scores(a=[1.0]), scores(b=[1.0]), "reward")
    here, there = (
        {"a": TaskScores({"database": f"{folder}/x.sqlite"}, {"a/0": {"reward": 1.0}})}
        for folder in ("/here", "/there")
    )
    assert not compared(here, there, "reward").left_out, "they are the same but for their place"
    other = {"a": TaskScores({"question": "another"}, {"a/0": {"reward": 1.0}})}
    with pytest.raises(UserError, match="1 of the same id, but with other data"):
        compared(scores(a=[1.0]), other, "reward")
