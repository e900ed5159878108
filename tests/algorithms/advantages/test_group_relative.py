"""Group-relative advantages against their formula."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.advantages.group_relative import group_relative

RETURNS = st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=16)


def rollouts_of_one_call(returns: list[float], normalize_std: bool) -> list[float]:
    return [value for (value,) in group_relative([[value] for value in returns], normalize_std)]


@given(st.floats(-1e6, 1e6), st.lists(st.integers(1, 5), min_size=1, max_size=16), st.booleans())
def test_equal_returns_have_exactly_zero_advantage(value: float, calls: list[int], normalize: bool) -> None:
    advantages = group_relative([[value] * count for count in calls], normalize)
    assert [len(values) for values in advantages] == calls
    assert not any(map(any, advantages))


def test_returns_that_differ_by_a_rounding_only_have_no_advantage_worth_the_name() -> None:
    assert max(map(abs, rollouts_of_one_call([0.1 + 0.2, 0.3, 0.3], True))) < 1e-9


@given(RETURNS)
def test_undivided_advantages_are_deviations_from_the_mean(returns: list[float]) -> None:
    expected = [value - statistics.fmean(returns) for value in returns]
    assert rollouts_of_one_call(returns, False) == pytest.approx(expected, abs=1e-5)


def test_divided_advantages_are_in_units_of_the_sample_deviation() -> None:
    returns = [0.0, 1.0, 1.0, 5.0]
    expected = [(value - statistics.fmean(returns)) / statistics.stdev(returns) for value in returns]
    assert rollouts_of_one_call(returns, True) == pytest.approx(expected, rel=1e-5)


def test_a_rollout_counts_once_for_the_baseline_however_many_calls_it_made() -> None:
    assert group_relative([[1.0] * 9, [0.0]], False) == [[0.5] * 9, [-0.5]]


def test_calls_of_a_rollout_keep_what_credit_told_apart() -> None:
    assert group_relative([[2.0, 0.0], [1.0]], False) == [[1.0, -1.0], [0.0]]


def test_advantages_survive_returns_that_float32_could_not_tell_apart() -> None:
    assert rollouts_of_one_call([1e9, 1e9 + 1], False) == [-0.5, 0.5]
