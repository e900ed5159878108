"""Several sources of tasks: each has its share, and goes through epochs of its own."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from al_ray.data.mixture import Source, mixed_tasks_of_step, whose_turns
from al_ray.data.task_order import tasks_at
from al_ray.types import Task

WEIGHTS = st.lists(st.floats(0.05, 20), min_size=1, max_size=5)
SEEDS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 9))


def source(name: str, count: int, weight: float = 1.0) -> Source:
    return Source([Task(f"{name}/{index}", {}) for index in range(count)], weight)


@given(WEIGHTS, st.integers(1, 3000))
def test_each_source_has_its_share_at_any_time_but_for_a_few_tasks(weights: list[float], count: int) -> None:
    turns = whose_turns([source(str(i), 1, weight) for i, weight in enumerate(weights)], count)
    for place, weight in enumerate(weights):
        assert abs((turns == place).sum() - count * weight / sum(weights)) < 8


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 20), SEEDS)
def test_one_source_is_asked_in_the_order_that_it_would_have_alone(
    size: int, count: int, step: int, seed: tuple[int, int]
) -> None:
    alone = source("a", size)
    own = tasks_at(alone.tasks, step * count, count, seed)
    assert mixed_tasks_of_step([alone], count, step, seed) == own


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.2, 5), st.integers(1, 12), SEEDS)
def test_every_source_goes_through_epochs_of_its_own(
    first: int, second: int, weight: float, count: int, seed: tuple[int, int]
) -> None:
    """However steps cut them: no task comes again before all of its source have come."""
    sources = [source("a", first), source("b", second, weight)]
    steps = [mixed_tasks_of_step(sources, count, step, seed) for step in range(12)]
    asked = [task.id for step in steps for task in step]
    assert len(asked) == 12 * count
    turns = whose_turns(sources, 12 * count)
    assert [name[0] for name in asked] == ["ab"[place] for place in turns]
    for each, size in zip(sources, (first, second), strict=True):
        own = [name for name in asked if name in {task.id for task in each.tasks}]
        for epoch in range(len(own) // size):
            assert max(Counter(own[epoch * size : (epoch + 1) * size]).values()) == 1


def test_what_was_asked_in_a_step_is_not_asked_again_by_its_refills_while_there_are_others() -> None:
    sources = [source("a", 6), source("b", 3)]
    asked: set[str] = set()
    for _ in range(2):
        found = {task.id for task in mixed_tasks_of_step(sources, 3, 4, (0, 1), asked)}
        assert not found & asked
        asked |= found
    everything = {task.id for each in sources for task in each.tasks}
    assert len(mixed_tasks_of_step(sources, 3, 4, (0, 1), everything)) == 3


def test_a_curriculum_chooses_within_each_source() -> None:
    """The shares stay; the step decides the draw."""
    sources = [source("a", 50), source("b", 50, 3)]
    liked = {"a/7", "b/8"}
    steps = [
        mixed_tasks_of_step(sources, 8, step, (0,), worth=lambda task: 1000.0 if task.id in liked else 1e-3)
        for step in range(5)
    ]
    for found in steps:
        assert liked <= {task.id for task in found}
    assert len({tuple(task.id for task in found) for found in steps}) == 5
    shares = np.bincount(whose_turns(sources, 40))
    assert [sum(t.id.startswith(n) for found in steps for t in found) for n in "ab"] == shares.tolist()
