"""Reward to go against its formula, and against identical credit where they must agree."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.advantages.group_relative import group_relative
from al_ray.algorithms.credit.identical import identical
from al_ray.algorithms.credit.reward_to_go import reward_to_go
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
