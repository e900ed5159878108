"""Which tasks are trained on and held out is decided by seed and step alone."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from al_ray.task_order import held_out, tasks_of_step
from al_ray.types import Task

SEEDS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 9))


def tasks(count: int) -> list[Task]:
    return [Task(str(index), {}) for index in range(count)]


@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 6), SEEDS)
def test_every_epoch_has_every_task_once(
    count: int, per_step: int, epochs: int, seed: tuple[int, int]
) -> None:
    """However steps cut the epochs, and also where a step is longer than an epoch."""
    steps = -(-count * epochs // per_step)
    order = [task.id for step in range(steps) for task in tasks_of_step(tasks(count), per_step, step, seed)]
    assert len(order) == steps * per_step
    for epoch in range(epochs):
        assert Counter(order[epoch * count : (epoch + 1) * count]) == Counter(map(str, range(count)))


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 50), SEEDS)
def test_a_step_asks_for_the_same_tasks_whoever_asks(
    count: int, per_step: int, step: int, seed: tuple[int, int]
) -> None:
    assert tasks_of_step(tasks(count), per_step, step, seed) == tasks_of_step(
        tasks(count), per_step, step, seed
    )


def test_epochs_seeds_and_stages_are_shuffled_differently() -> None:
    orders = [
        [task.id for task in tasks_of_step(tasks(30), 30, step, seed)]
        for step, seed in [(0, (0, 0)), (1, (0, 0)), (0, (1, 0)), (0, (0, 1))]
    ]
    assert len({tuple(order) for order in orders}) == 4


@given(st.integers(0, 40), st.integers(0, 60))
def test_held_out_tasks_are_the_first_of_one_shuffle(count: int, wanted: int) -> None:
    """So that more of them include the fewer, and two runs are compared on the same."""
    found = held_out(tasks(count), wanted)
    assert found == held_out(tasks(count), count)[:wanted]
    assert len({task.id for task in found}) == min(count, wanted)
