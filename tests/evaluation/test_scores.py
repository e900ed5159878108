"""What rollouts were rewarded becomes estimates over tasks; what failed is counted, and is never a 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.evaluation.scores import Result, by_key, failures, result_of, scores
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.outcome import Outcome
from al_ray.traces import semconv
from al_ray.types import (
    JSON,
    Attempt,
    AttemptStatus,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanKind,
    Task,
    Trajectory,
)

Sample = Mapping[str, float] | None
"""Rewards by name; None: it failed."""

TASKS = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4), min_size=1, max_size=6)


def results(*tasks: Sequence[Sample], data: Sequence[Mapping[str, JSON]] | None = None) -> list[Result]:
    found = []
    for index, samples in enumerate(tasks):
        task = Task(f"t{index}", {} if data is None else data[index])
        for given_rewards in samples:
            episode = None
            if given_rewards is not None:
                reward = given_rewards.get("reward", 0.0)
                episode = Trajectory("r", f"g{index}", task.id, (), reward, rewards=given_rewards)
            failure = "timed_out" if episode is None else None
            found.append(Result(task, f"g{index}", episode, Outcome("r"), failure=failure))
    return found


def rewarded(*values: float) -> list[Sample]:
    return [{"reward": value} for value in values]


def test_what_the_model_made_fail_counts_in_a_mean_of_its_own() -> None:
    """And only where there is such a thing; what else failed counts in neither."""
    found = results(rewarded(1.0), [None], [None])
    assert list(scores(found, "reward", 1)) == ["reward"]
    found[1] = replace(found[1], failed_reward=0.0)
    both = scores(found, "reward", 1)
    assert {name: (each.value, each.tasks) for name, each in both.items()} == {
        "reward": (1.0, 1),
        "reward_with_failed": (0.5, 2),
    }


@given(TASKS)
def test_a_task_counts_once_however_many_of_its_samples_have_a_score(tasks: list[list[float]]) -> None:
    found = scores(results(*(rewarded(*values) for values in tasks)), "reward", 4)["reward"]
    assert found.value == pytest.approx(fmean(map(fmean, tasks)))
    assert found.tasks == len(tasks)


@given(TASKS, st.integers(2, 5))
def test_samples_that_repeat_each_other_make_no_interval_narrower(
    tasks: list[list[float]], times: int
) -> None:
    """The interval is over tasks: more of the same task is no more evidence."""
    once, often = (
        scores(results(*(rewarded(*values * n) for values in tasks)), "reward", 1)["reward"]
        for n in (1, times)
    )
    assert (often.value, often.low, often.high) == pytest.approx(
        (once.value, once.low, once.high), nan_ok=True
    )


def test_every_metric_is_averaged_over_those_that_have_it_and_the_primary_comes_first() -> None:
    found = scores(
        results([{"em": 1.0, "reward": 0.9, "f1": 1.0}], [{"em": 0.0, "reward": 0.3}]), "reward", 1
    )
    assert list(found) == ["reward", "em", "f1"]
    assert [(name, each.value, each.tasks) for name, each in found.items()] == [
        ("reward", pytest.approx(0.6), 2),
        ("em", 0.5, 2),
        ("f1", 1.0, 1),
    ]
    assert (found["em"].method, found["reward"].method) == ("wilson", "bootstrap")


def test_what_failed_is_counted_by_reason_and_is_no_zero() -> None:
    found = results([None, {"reward": 1.0}], [None], rewarded(1.0))
    assert scores(found, "reward", 1)["reward"].value == 1.0
    assert scores(found, "reward", 1)["reward"].tasks == 2
    assert failures(found) == {"timed_out": 2}
    assert scores(results([None]), "reward", 2) == {}


def test_pass_at_k_is_over_tasks_and_avg_at_k_is_pass_at_1() -> None:
    """A success has a reward of 1, up to a rounding; k doubles up to the number of samples."""
    found = scores(
        results(rewarded(0.1 * 3 + 0.7, 0.0, 0.99, 0.5), rewarded(1.0, 1.0, 1.0, 0.0)), "reward", 4
    )
    assert list(found) == ["reward", "avg@4", "pass@1", "pass@2", "pass@4"]
    assert found["avg@4"] == found["pass@1"]
    assert found["avg@4"].value == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert found["pass@2"].value == pytest.approx((1 - 3 / 6 + 1 - 0) / 2)
    assert found["pass@4"].value == 1.0


def test_a_task_with_too_few_scored_samples_says_nothing_of_pass_at_k() -> None:
    found = scores(results([{"reward": 1.0}, None], rewarded(0.0, 0.0)), "reward", 2)
    assert (found["pass@1"].value, found["pass@1"].tasks) == (0.5, 2)
    assert (found["pass@2"].value, found["pass@2"].tasks) == (0.0, 1)


def test_parts_come_in_the_order_of_their_values_and_a_task_without_one_is_not_lost() -> None:
    data: list[Mapping[str, JSON]] = [{"hops": 10}, {"hops": 2}, {}, {"hops": 2}]
    found = by_key(results(*(rewarded(float(i)) for i in range(4)), data=data), "hops", "reward", 1)
    assert [(value, part["reward"].value, part["reward"].tasks) for value, part in found.items()] == [
        ("2", 2.0, 2),
        ("10", 0.0, 1),
        ("null", 2.0, 1),
    ]


def _rollout(
    status: RolloutStatus, *attempts: Attempt, rewards: Mapping[str, float] | None = None
) -> Rollout:
    request = RolloutRequest("r", "b", "g", Task("t", {}))
    attributes = {semconv.REWARD_DIMENSIONS: rewards}
    spans = [Span("s", "r", 1, SpanKind.REWARD, "reward", 0.0, 0.0, attributes, 0)] if rewards else []
    return Rollout(request, status, attempts, spans)


@pytest.mark.parametrize(
    ("status", "error_class", "reason"),
    [
        (AttemptStatus.FAILED, "openai.InternalServerError", "openai.InternalServerError"),
        (AttemptStatus.FAILED, None, "failed"),
        (AttemptStatus.TIMED_OUT, None, "timed_out"),
    ],
)
def test_a_failure_is_named_by_the_error_of_the_last_attempt(
    status: AttemptStatus, error_class: str | None, reason: str
) -> None:
    first = Attempt("r", 1, "", AttemptStatus.TIMED_OUT)
    last = Attempt("r", 2, "", status, error_class=error_class)
    found = result_of(_rollout(RolloutStatus.FAILED, first, last), TransitionsSection(), "toy")
    assert (found.failure, found.rewards) == (reason, {})


def test_a_failure_by_what_the_evaluated_model_answered_has_a_worth_also_where_it_is_hosted() -> None:
    attempt = Attempt("r", 1, "", AttemptStatus.FAILED, error_class="builtins.ValueError")
    told = {semconv.HOSTED: True, semconv.REQUEST_MODEL: "gpt", semconv.FINISH_REASONS: ["stop"]}
    call = Span("c", "r", 1, SpanKind.CALL, "chat", 0.0, 0.0, told, 0)
    rollout = replace(_rollout(RolloutStatus.FAILED, attempt), spans=[call])
    worth = [result_of(rollout, TransitionsSection(), model).failed_reward for model in ("gpt", "toy")]
    assert worth == [0.0, None]


def test_a_rollout_without_the_primary_reward_has_no_score_but_an_output() -> None:
    attempt = Attempt("r", 1, "", AttemptStatus.SUCCEEDED, output="42")
    rollout = _rollout(RolloutStatus.SUCCEEDED, attempt, rewards={"style": 1.0})
    found = result_of(rollout, TransitionsSection(), "toy")
    assert (found.failure, found.rewards, found.output) == ("no reward 'reward'", {}, "42")
