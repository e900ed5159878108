"""Each credit against its formula, and against others where they must agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.credit import credit_of
from al_ray.algorithms.credit.final import final
from al_ray.algorithms.credit.group_in_group import group_in_group
from al_ray.algorithms.credit.identical import identical
from al_ray.algorithms.credit.reward_to_go import reward_to_go
from al_ray.errors import RecipeError, UserError
from al_ray.recipe import OptimizerSection, ReinforcementStage
from al_ray.types import Trajectory
from tests.algorithms.forests import GROUPS, call, episode, of, rollouts

STAGE = ReinforcementStage(algorithm="grpo", steps=1, optimizer=OptimizerSection(learning_rate=1e-5))


def test_identical_credit_gives_every_call_the_return_of_the_episode() -> None:
    assert list(identical(episode(0.0, 1.0, 2.0))) == [3.0, 3.0, 3.0]


def test_final_credit_gives_it_to_the_last_trained_call_alone_and_to_all_its_choices() -> None:
    both = [call("2/0", call="2"), call("2/1", call="2")]
    judge = call("3", agent="judge", trained=False)
    assert list(final(of([call("1"), *both, judge], more=5.0))) == [None, 5.0, 5.0, None]
    assert list(final(of([judge], more=5.0))) == [None]


@given(st.lists(st.floats(-10, 10, width=32), max_size=8), st.floats(0.125, 1, width=32))
def test_reward_to_go_is_the_discounted_sum_of_what_is_still_to_come(
    rewards: list[float], discount: float
) -> None:
    expected = [
        math.fsum(discount ** (later - number) * rewards[later] for later in range(number, len(rewards)))
        for number in range(len(rewards))
    ]
    assert reward_to_go(episode(*rewards), discount) == pytest.approx(expected, abs=1e-9)


@given(rollouts("r"), st.floats(0.125, 1, width=32))
def test_the_choices_of_a_call_are_parallel_to_reward_to_go(rollout: Trajectory, discount: float) -> None:
    """Each has what it earned itself, what its call earned, and what came after the call; no choice has
    what another one earned."""
    calls: dict[str, list[float]] = {}
    whole = {t.of_call: t.call_reward for t in rollout.transitions}
    for t in rollout.transitions:
        calls.setdefault(t.of_call, []).append(t.reward)
    earned = {name: whole[name] + sum(own) for name, own in calls.items()}
    names = list(calls)
    expected = [
        t.reward
        + whole[t.of_call]
        + sum(
            discount ** (names.index(later) - names.index(t.of_call)) * earned[later]
            for later in names[names.index(t.of_call) + 1 :]
        )
        for t in rollout.transitions
    ]
    assert list(reward_to_go(rollout, discount)) == pytest.approx(expected, abs=1e-9)


@given(st.floats(-10, 10, width=32), st.integers(1, 4))
def test_where_only_the_end_is_rewarded_reward_to_go_is_identical(value: float, calls: int) -> None:
    only_the_end = episode(*[0.0] * (calls - 1), value)
    assert list(reward_to_go(only_the_end)) == list(identical(only_the_end))


@given(GROUPS, st.floats(0.5, 1, width=32))
def test_group_in_group_has_the_episodes_and_the_calls_that_saw_the_same(
    group: tuple[Trajectory, ...], discount: float
) -> None:
    episodes, steps = group_in_group(group, discount, 0.5)
    assert [list(given) for given in episodes.returns] == [list(identical(each)) for each in group]
    assert [list(given) for given in steps.returns] == [list(reward_to_go(each, discount)) for each in group]
    assert (episodes.weight, steps.weight, steps.widen) == (1.0, 0.5, False)
    assert (episodes.baseline, steps.baseline) == ("none", "mean")
    assert steps.keys is not None
    seen = [
        (key, t)
        for each, keys in zip(group, steps.keys, strict=True)
        for key, t in zip(keys, each.transitions, strict=True)
    ]
    for key, t in seen:
        for other, o in seen:
            same = (t.agent, tuple(t.prompt_ids)) == (o.agent, tuple(o.prompt_ids))
            assert (key == other) == same


def last_call_only(group: list[Trajectory]) -> list[list[float | None]]:
    """A user's own."""
    return [[None] * (len(each.transitions) - 1) + [each.reward] for each in group]


def one_short(group: list[Trajectory]) -> list[list[float]]:
    return [[0.0] * (len(each.transitions) - 1) for each in group]


def test_a_users_own_credit_is_taken_by_its_path_and_its_shape_is_checked() -> None:
    own = STAGE.model_copy(update={"credit": f"{__name__}:last_call_only"})
    (layer,) = credit_of(own)([episode(0.0, 1.0), episode(2.0)])
    assert layer.returns == [[None, 1.0], [2.0]]
    short = credit_of(STAGE.model_copy(update={"credit": f"{__name__}:one_short"}))
    with pytest.raises(UserError, match=r"one_short.*gave \[1, 0\] returns for rollouts of \[2, 1\] calls"):
        short([episode(0.0, 1.0), episode(2.0)])
    with pytest.raises(RecipeError, match=r"stages\.credit"):
        credit_of(STAGE.model_copy(update={"credit": f"{__name__}:nothing"}))


def nothing_at_all(group: list[Trajectory]) -> None:
    pass


def one_for_a_rollout(group: list[Trajectory]) -> list[float]:
    return [each.reward for each in group]


def words(group: list[Trajectory]) -> list[list[str]]:
    return [["1.0"] * len(each.transitions) for each in group]


def undefined(group: list[Trajectory]) -> list[list[float]]:
    return [[math.nan] * len(each.transitions) for each in group]


def unbounded(group: list[Trajectory]) -> list[list[float]]:
    return [[-math.inf] * len(each.transitions) for each in group]


def arrays(group: list[Trajectory]) -> list[np.ndarray]:
    return [np.full(len(each.transitions), each.reward, np.float32) for each in group]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("nothing_at_all", "'NoneType' object is not iterable"),
        ("one_for_a_rollout", "'float' object is not iterable"),
        ("words", "'1.0' is none"),
        ("undefined", "nan is none"),
        ("unbounded", "-inf is none"),
    ],
)
def test_a_users_own_credit_that_gives_no_finite_numbers_is_told_so(function: str, told: str) -> None:
    own = credit_of(STAGE.model_copy(update={"credit": f"{__name__}:{function}"}))
    with pytest.raises(UserError, match=rf"stages\.credit: '.*{function}': must give for each.*{told}"):
        own([episode(0.0, 1.0), episode(2.0)])


def test_a_users_own_credit_may_give_arrays() -> None:
    (layer,) = credit_of(STAGE.model_copy(update={"credit": f"{__name__}:arrays"}))([episode(0.0, 1.0)])
    assert layer.returns == [[1.0, 1.0]]
