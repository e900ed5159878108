"""Potential-based shaping leaves the best policy what it was; rewards that are merely added do not."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.credit.reward_to_go import reward_to_go
from al_ray.algorithms.shaping.potential import Potential
from al_ray.types import Trajectory
from tests.algorithms.forests import call, of, rollouts

EARNED = st.lists(st.floats(-1, 1, width=16), min_size=8, max_size=8)
DISCOUNT = st.floats(0.125, 1, width=16)


def with_intermediate(episode: Trajectory, earned: list[float]) -> Trajectory:
    """As AIR adds it, to the trained."""
    told = [
        replace(t, reward=t.reward + more, intermediate=more) if t.trained else t
        for t, more in zip(episode.transitions, earned, strict=False)
    ]
    total = sum(t.intermediate for t in told)
    return replace(episode, transitions=told, intermediate=total, reward=episode.reward + total)


@given(rollouts("r"), EARNED, DISCOUNT)
def test_from_a_call_on_the_return_differs_by_what_calls_before_it_earned(
    episode: Trajectory, earned: list[float], discount: float
) -> None:
    """Which no choice of its own, nor of a later call, changes: so the better of two policies stays it, and
    the better of two choices of one call."""
    seen = with_intermediate(episode, earned)
    shaped = Potential(discount)(seen)
    assert shaped.reward == pytest.approx(episode.reward, abs=1e-5)
    calls = list(dict.fromkeys(t.of_call for t in seen.transitions))
    ahead, plain = (reward_to_go(each, discount) for each in (shaped, episode))
    for number, t in enumerate(seen.transitions):
        before = sum(
            o.intermediate for o in seen.transitions if calls.index(o.of_call) < calls.index(t.of_call)
        )
        assert ahead[number] == pytest.approx(plain[number] - before, abs=1e-4)


def test_a_policy_that_harvests_signals_is_not_the_best_where_they_are_a_potential() -> None:
    """Each of two calls looks something up, or answers; only the last call's answer is worth 1, and a lookup
    is a signal worth 0.6."""

    def episode(*actions: str) -> Trajectory:
        rewards = [0.6 * (a == "look") for a in actions]
        calls = [call(str(i), reward, intermediate=reward) for i, reward in enumerate(rewards)]
        if actions[-1] == "answer":
            calls[-1] = replace(calls[-1], reward=calls[-1].reward + 1)
        return replace(of(calls), intermediate=sum(rewards))

    policies = [episode(*actions) for actions in product(("look", "answer"), repeat=2)]
    added = {tuple(t.intermediate for t in each.transitions): reward_to_go(each)[0] for each in policies}
    shaped = {
        tuple(t.intermediate for t in each.transitions): reward_to_go(Potential(1.0)(each))[0]
        for each in policies
    }
    assert max(added.values()) == added[0.6, 0.0] == pytest.approx(1.6)
    assert added[0.6, 0.6] > added[0.0, 0.0], "harvesting beats answering at once"
    assert shaped[0.0, 0.0] == shaped[0.6, 0.0] == pytest.approx(1.0)
    assert shaped[0.6, 0.6] == shaped[0.0, 0.6] == pytest.approx(0.0)
