"""Whoever asks for rollouts of a batch twice asks for the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from al_ray.recipe import Recipe
from al_ray.rollouts.requests import evaluation_batch, rollout_requests, step_batch, step_of
from al_ray.types import Mode, Task
from tests.support.runs import toy

RECIPE = Recipe.model_validate(toy.recipe(Path("model"), Path("out")))


def test_each_task_has_a_group_whose_members_are_numbered() -> None:
    tasks = [Task("a", {}), Task("b", {})]
    asked = rollout_requests(RECIPE, "eval/step-000003", tasks, 2, "eval")
    assert [(each.id, each.group, each.task.id) for each in asked] == [
        ("eval/step-000003/0/0", "eval/step-000003/0", "a"),
        ("eval/step-000003/0/1", "eval/step-000003/0", "a"),
        ("eval/step-000003/1/0", "eval/step-000003/1", "b"),
        ("eval/step-000003/1/1", "eval/step-000003/1", "b"),
    ]
    assert {(each.batch, each.mode) for each in asked} == {("eval/step-000003", "eval")}
    assert asked == rollout_requests(RECIPE, "eval/step-000003", list(tasks), 2, "eval")


@pytest.mark.parametrize(
    ("batch", "mode", "step"),
    [
        (step_batch(12), "train", 12),
        (step_batch(12, refill=3), "train", 12),
        (step_batch(1_234_567), "train", 1_234_567),
        (step_batch(12), "eval", None),
        (step_batch(12), "judge", None),
        (evaluation_batch(12), "eval", None),
        (evaluation_batch(12), "train", None),
        ("mine", "train", None),
    ],
)
def test_a_step_has_asked_for_what_it_learns_from_and_for_nothing_else(
    batch: str, mode: Mode, step: int | None
) -> None:
    [asked] = rollout_requests(RECIPE, batch, [Task("a", {})], 1, mode)
    assert step_of(asked) == step
