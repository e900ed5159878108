"""Credit and advantages against their formulas."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.advantage import group_relative
from al_ray.algorithms.credit import CREDITS
from al_ray.types import Trajectory, Transition


def single_calls(returns: list[float], normalize_std: bool) -> list[float]:
    """The advantages of rollouts of one call each."""
    return [values[0] for values in group_relative([[value] for value in returns], normalize_std)]


RETURNS = st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=16)


def test_identical_credit_gives_every_call_the_return_of_the_episode() -> None:
    calls = [Transition(str(i), "a", (1,), (2,), (0.0,), 0, reward=i) for i in range(3)]
    assert list(CREDITS["identical"](Trajectory("r", "g", "t", calls, 3.0))) == [3.0, 3.0, 3.0]


@given(st.floats(-1e6, 1e6), st.integers(1, 16), st.booleans())
def test_equal_returns_have_exactly_zero_advantage(value: float, size: int, normalize: bool) -> None:
    returns = [[value] * calls for calls in range(1, size + 1)]
    assert not any(map(any, group_relative(returns, normalize)))


def test_returns_that_differ_by_a_rounding_only_have_no_advantage_worth_the_name() -> None:
    assert max(map(abs, single_calls([0.1 + 0.2, 0.3, 0.3], True))) < 1e-9


@given(RETURNS)
def test_undivided_advantages_are_deviations_from_the_mean(returns: list[float]) -> None:
    expected = [value - statistics.fmean(returns) for value in returns]
    assert single_calls(returns, False) == pytest.approx(expected, abs=1e-5)


def test_divided_advantages_are_in_units_of_the_sample_deviation() -> None:
    returns = [0.0, 1.0, 1.0, 5.0]
    expected = [(value - statistics.fmean(returns)) / statistics.stdev(returns) for value in returns]
    assert single_calls(returns, True) == pytest.approx(expected, rel=1e-5)


def test_advantages_survive_returns_that_float32_could_not_tell_apart() -> None:
    assert single_calls([1e9, 1e9 + 1], False) == [-0.5, 0.5]


def test_in_the_comparison_a_rollout_counts_once_however_many_calls_it_made() -> None:
    talkative, terse = group_relative([[1.0] * 9, [0.0]], False)
    assert talkative == [0.5] * 9 and terse == [-0.5]
