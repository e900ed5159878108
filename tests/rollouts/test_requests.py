"""Whoever asks for rollouts of a batch twice asks for the same ones."""

from __future__ import annotations

from pathlib import Path

from al_ray.recipe import Recipe
from al_ray.rollouts.requests import rollout_requests
from al_ray.types import Task
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
