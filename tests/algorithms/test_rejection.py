"""Of a group, the best are imitated: those that a person would choose."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.rejection import best
from al_ray.types import Trajectory
from tests.algorithms.forests import episode

REWARDS = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8)


def group(rewards: list[float]) -> list[Trajectory]:
    return [replace(episode(reward), rollout_id=f"r{place}") for place, reward in enumerate(rewards)]


@given(REWARDS, st.integers(1, 8), st.none() | st.sampled_from([0.0, 0.5, 2.0]))
def test_nobody_who_is_left_is_better_than_one_who_is_kept(
    rewards: list[float], keep: int, threshold: float | None
) -> None:
    members = group(rewards)
    kept = best(members, keep, threshold)
    left = [member for member in members if member not in kept]
    assert [member for member in members if member in kept] == kept, "in the group's order"
    worthy = [r for r in rewards if (r > min(rewards) if threshold is None else r >= threshold)]
    assert len(kept) == min(keep, len(worthy))
    assert all(member.reward in worthy for member in kept)
    for one in kept:
        for other in left:
            assert one.reward >= other.reward
            if one.reward == other.reward:
                assert members.index(one) < members.index(other), "of equals, the first"


def test_of_equals_nobody_is_the_best_unless_all_are_good_enough() -> None:
    equal = group([1.0, 1.0, 1.0])
    assert best(equal, 2, None) == []
    assert best(equal, 2, 1.0) == equal[:2]
    assert best(equal, 2, 1.5) == []
    assert best(group([1.0]), 1, None) == [], "nor is a rollout alone"
