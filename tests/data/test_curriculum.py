"""A curriculum asks for what is solved sometimes, and gives up on nothing."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.data.curriculum import drawn, learnability
from al_ray.types import Task

TASKS = [Task(str(index), {}) for index in range(12)]
COUNTS = st.integers(0, 40).flatmap(lambda tried: st.tuples(st.integers(0, tried), st.just(tried)))


@given(COUNTS)
def test_learnability_is_the_mean_variance_under_what_was_seen(counts: tuple[int, int]) -> None:
    """By numbers: the posterior over a grid of shares, each as likely as any other before."""
    solved, tried = counts
    grid = (np.arange(20_000) + 0.5) / 20_000
    posterior = grid**solved * (1 - grid) ** (tried - solved)
    expected = (posterior * grid * (1 - grid)).sum() / posterior.sum()
    assert learnability(solved, tried) == pytest.approx(expected, rel=1e-5)
    assert learnability(tried - solved, tried) == learnability(solved, tried)


def test_the_longer_a_task_was_always_solved_or_never_the_less_it_is_asked_but_it_is_asked() -> None:
    always = [learnability(tried, tried) for tried in range(100)]
    assert all(later < earlier for earlier, later in pairwise(always[1:]))
    assert always[-1] > 0
    assert learnability(50, 100) > learnability(0, 0) > learnability(99, 100) > learnability(100, 100)


@given(st.integers(0, 30), st.lists(st.floats(1e-3, 1), min_size=12, max_size=12), st.integers(0, 99))
def test_no_task_is_asked_twice_while_there_are_others_and_the_same_seed_asks_for_the_same(
    count: int, weights: list[float], seed: int
) -> None:
    def worth(task: Task) -> float:
        return weights[int(task.id)]

    found = drawn(TASKS, count, worth, [seed])
    assert found == drawn(TASKS, count, worth, [seed])
    times = Counter(task.id for task in found)
    assert times.total() == count
    assert {times[task.id] for task in TASKS} <= {count // 12, count // 12 + 1}


def test_tasks_are_drawn_in_proportion_to_what_they_are_worth() -> None:
    worth = {"0": 1.0, "1": 2.0, "2": 5.0}
    first = Counter(drawn(TASKS[:3], 1, lambda task: worth[task.id], [seed])[0].id for seed in range(4000))
    for name, weight in worth.items():
        assert first[name] / 4000 == pytest.approx(weight / 8, abs=0.03)
