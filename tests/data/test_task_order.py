"""Which tasks are trained on and held out is decided by seed and step alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from al_ray.data.task_order import digest, held_out, split_by_id, tasks_at
from al_ray.types import Task

FIRST_HELD_OUT = ["9", "39", "49"]
SEEDS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 9))


def ids(tasks: Sequence[Task]) -> list[str]:
    return [task.id for task in tasks]


def tasks(count: int) -> list[Task]:
    return [Task(str(index), {}) for index in range(count)]


@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 6), SEEDS)
def test_every_epoch_has_every_task_once(
    count: int, per_step: int, epochs: int, seed: tuple[int, int]
) -> None:
    """However steps cut the epochs, and also where a step is longer than an epoch."""
    steps = -(-count * epochs // per_step)
    portions = (tasks_at(tasks(count), step * per_step, per_step, seed) for step in range(steps))
    order = [task.id for portion in portions for task in portion]
    assert len(order) == steps * per_step
    for epoch in range(epochs):
        assert Counter(order[epoch * count : (epoch + 1) * count]) == Counter(map(str, range(count)))


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 50), SEEDS)
def test_a_place_has_the_same_task_whatever_is_asked_for_with_it(
    count: int, asked: int, first: int, seed: tuple[int, int]
) -> None:
    alone = [tasks_at(tasks(count), first + place, 1, seed) for place in range(asked)]
    assert tasks_at(tasks(count), first, asked, seed) == [task for (task,) in alone]


def test_epochs_seeds_and_stages_are_shuffled_differently() -> None:
    orders = [
        [task.id for task in tasks_at(tasks(30), first, 30, seed)]
        for first, seed in [(0, (0, 0)), (30, (0, 0)), (0, (1, 0)), (0, (0, 1))]
    ]
    assert len({tuple(order) for order in orders}) == 4


@given(st.integers(0, 40), st.integers(0, 60))
def test_held_out_tasks_are_the_first_of_one_shuffle(count: int, wanted: int) -> None:
    """So that more of them include the fewer, and two runs are compared on the same."""
    found = held_out(tasks(count), wanted)
    assert found == held_out(tasks(count), count)[:wanted]
    assert len({task.id for task in found}) == min(count, wanted)


@given(st.integers(0, 60), st.floats(0.01, 0.99), st.randoms())
def test_a_task_stays_on_its_side_of_the_split_whatever_the_others_are(
    count: int, share: float, random: Random
) -> None:
    """Rows that are added, left out or moved change nothing for the rest."""
    train, validation = split_by_id(tasks(count), share)
    assert sorted(task.id for task in [*train, *validation]) == sorted(task.id for task in tasks(count))
    assert {task.split for task in validation} <= {"validation"}
    fewer = random.sample(tasks(count), count // 2)
    train_of_fewer, validation_of_fewer = split_by_id(fewer, share)
    assert set(ids(train_of_fewer)) <= set(ids(train))
    assert set(ids(validation_of_fewer)) <= set(ids(validation))


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=60), st.floats(0.05, 0.95))
def test_a_family_stays_together_and_one_that_is_larger_than_the_share_is_trained_on(
    names: list[str], share: float
) -> None:
    made = tasks(len(names))
    families = {task.id: name for task, name in zip(made, names, strict=True)}
    train, validation = ({families[task.id] for task in side} for side in split_by_id(made, share, families))
    assert not train & validation
    assert all(names.count(name) <= share * len(names) for name in validation)
    alone = split_by_id(made, share, {task.id: task.id for task in made})
    assert share * len(made) < 1 or alone == split_by_id(made, share)


def test_the_split_by_id_has_about_the_share_that_is_asked_for() -> None:
    """And the next release of al_ray has the same, so that runs can be compared."""
    _, validation = split_by_id(tasks(10_000), 0.1)
    assert 900 < len(validation) < 1_100
    assert ids(validation[:3]) == FIRST_HELD_OUT


def test_other_tasks_and_another_order_have_another_digest() -> None:
    made = tasks(3)
    others = [made[::-1], made[:2], [Task("0", {"x": 1}), *made[1:]], [Task("0", {}, "other"), *made[1:]]]
    assert len({digest(each) for each in [made, *others]}) == 5
    assert digest(tasks(3)) == digest(made)


def test_tasks_are_the_same_wherever_their_files_lie() -> None:
    """As databases of Spider do, on another machine."""
    here, there, another = (
        digest([Task("0", {"query": "SELECT 1", "database": place})])
        for place in ("/data/db/pets.sqlite", "/mnt/spider/pets.sqlite", "/data/db/cars.sqlite")
    )
    assert here == there != another
