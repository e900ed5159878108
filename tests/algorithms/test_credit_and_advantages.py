"""Credit and advantages against their formulas."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.advantages.group_relative import group_relative
from al_ray.algorithms.credit.reward_to_go import credit_of, identical, reward_to_go
from al_ray.recipe import GrpoStage, OptimizerSection
from al_ray.types import Trajectory, Transition

RETURNS = st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=16)


def episode(*rewards: float) -> Trajectory:
    """Of calls that earned these."""
    calls = [Transition(str(i), "a", (1,), (2,), (0.0,), 0, reward=r) for i, r in enumerate(rewards)]
    return Trajectory("r", "g", "t", calls, math.fsum(rewards))


def test_identical_credit_gives_every_call_the_return_of_the_episode() -> None:
    assert list(identical(episode(0.0, 1.0, 2.0))) == [3.0, 3.0, 3.0]


@given(st.lists(st.floats(-10, 10, width=32), max_size=8), st.floats(0.125, 1, width=32))
def test_reward_to_go_is_the_discounted_sum_of_what_is_still_to_come(
    rewards: list[float], discount: float
) -> None:
    expected = [
        math.fsum(discount ** (later - call) * rewards[later] for later in range(call, len(rewards)))
        for call in range(len(rewards))
    ]
    assert reward_to_go(episode(*rewards), discount) == pytest.approx(expected, abs=1e-9)


@given(RETURNS.flatmap(lambda returns: st.tuples(st.just(returns), st.integers(1, 4))))
def test_where_only_the_end_is_rewarded_reward_to_go_is_identical_and_so_are_the_advantages(
    drawn: tuple[list[float], int],
) -> None:
    returns, calls = drawn
    group = [episode(*[0.0] * calls, value) for value in returns]
    both = [group_relative([credit(each) for each in group], True) for credit in (identical, reward_to_go)]
    assert both[0] == both[1]


def test_a_call_is_not_blamed_for_what_went_wrong_before_it() -> None:
    """Two rollouts alike but for an early mistake: the calls after it fare as well as the other's."""
    faulty, clean = group_relative([reward_to_go(episode(first, 0.0, 1.0)) for first in (-0.2, 0.0)], False)
    assert faulty[1:] == clean[1:] and faulty[0] < clean[0]


def test_the_recipe_names_the_credit_and_its_discount() -> None:
    stage = GrpoStage(algorithm="grpo", steps=1, optimizer=OptimizerSection(learning_rate=1e-5))
    assert list(credit_of(stage)(episode(1.0, 2.0))) == [3.0, 3.0]
    ahead = stage.model_copy(update={"credit": "reward_to_go", "discount": 0.5})
    assert list(credit_of(ahead)(episode(1.0, 2.0))) == [2.0, 2.0]


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
