"""GAE over the trained calls of an episode."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.credit.gae import gae, targets
from al_ray.algorithms.credit.reward_to_go import reward_to_go
from al_ray.types import Trajectory
from tests.algorithms.forests import call, of, rollouts

UNIT = st.floats(0, 1, width=16)


def valued(episode: Trajectory, values: list[float]) -> Trajectory:
    """Choices of one call share its value."""
    by_call: dict[str, float] = {}
    for t, value in zip(episode.transitions, values, strict=False):
        by_call.setdefault(t.of_call, value)
    told = [replace(t, value=by_call.get(t.of_call, 0.5)) for t in episode.transitions]
    return replace(episode, transitions=told)


VALUES = st.lists(st.floats(-2, 2, width=16), min_size=8, max_size=8)


def summed(episode: Trajectory, discount: float, decay: float) -> list[float | None]:
    """By the sum over surprises (equation 16), each worked out from rewards and values by place."""
    steps: list[tuple[int, float, float, bool]] = []
    """Of each call: its first transition, what it earned, its value, whether it is trained."""
    for i, t in enumerate(episode.transitions):
        if i and episode.transitions[i - 1].of_call == t.of_call:
            at, earned, value, trained = steps[-1]
            steps[-1] = (at, earned + t.reward, value, trained)
        else:
            steps.append((i, t.reward + t.call_reward, t.value, t.trained))
    trained = [k for k, step in enumerate(steps) if step[3]]
    of_call = {}
    for n, k in enumerate(trained):
        total = 0.0
        for m in range(n, len(trained)):
            here, after = trained[m], trained[m + 1] if m + 1 < len(trained) else len(steps)
            earned = sum(discount ** (j - here) * steps[j][1] for j in range(here, after))
            ahead = discount ** (after - here) * steps[after][2] if after < len(steps) else 0.0
            total += discount ** (here - k) * decay ** (m - n) * (earned + ahead - steps[here][2])
        of_call[episode.transitions[steps[k][0]].of_call] = total
    found: list[float | None] = []
    for t in episode.transitions:
        others = sum(o.reward for o in episode.transitions if o.of_call == t.of_call) - t.reward
        found.append(of_call[t.of_call] - others if t.of_call in of_call else None)
    return found


@given(rollouts("r"), VALUES, UNIT, UNIT)
def test_it_is_the_discounted_sum_of_surprises(
    episode: Trajectory, values: list[float], discount: float, decay: float
) -> None:
    told = valued(episode, values)
    found, expected = gae(told, discount, decay), summed(told, discount, decay)
    assert found == [None if e is None else pytest.approx(e, abs=1e-6) for e in expected]


@given(rollouts("r"), UNIT)
def test_without_a_critic_and_decay_it_is_the_reward_to_go(episode: Trajectory, discount: float) -> None:
    ahead = reward_to_go(episode, discount)
    for t, found, expected in zip(episode.transitions, gae(episode, discount, 1.0), ahead, strict=True):
        assert found is None if not t.trained else found == pytest.approx(expected, abs=1e-6)


@given(rollouts("r"), VALUES, UNIT)
def test_the_critic_learns_the_reward_to_go_where_surprises_do_not_decay(
    episode: Trajectory, values: list[float], discount: float
) -> None:
    """Of the call, all of its choices."""
    told = valued(episode, values)
    found = targets(told, discount, 1.0)
    for t, target, ahead in zip(told.transitions, found, reward_to_go(told, discount), strict=True):
        others = sum(o.reward for o in told.transitions if o.of_call == t.of_call) - t.reward
        assert target is None if not t.trained else target == pytest.approx(ahead + others, abs=1e-6)


def test_what_happens_between_two_trained_calls_counts_for_the_first() -> None:
    calls = [call("0", 1.0, value=3.0), call("1", 2.0, trained=False), call("2", 4.0, value=5.0)]
    surprises = (1 + 0.5 * (2 + 0.5 * 5) - 3, 4 - 5)
    assert gae(of(calls), discount=0.5, decay=0.1) == [
        pytest.approx(surprises[0] + 0.25 * 0.1 * surprises[1]),
        None,
        pytest.approx(surprises[1]),
    ]
