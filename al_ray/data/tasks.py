"""The tasks that a recipe names, loaded once before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from al_ray.data.task_order import held_out, split_by_id
from al_ray.errors import DataError, Problem
from al_ray.recipe import Recipe, SupervisedStage, dotted
from al_ray.types import Task, TaskSet


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of a run."""

    train: Sequence[Task]
    held_out: Sequence[Task]
    left_out: Sequence[str] = ()
    """A line for each split that left rows out, for the user."""


def load_tasks(recipe: Recipe) -> Tasks:
    """Load both splits and try the first task. Raises ``DataError``."""
    found = _splits(recipe)
    for split, loaded in found.items():
        if not loaded.tasks:
            reasons = f" ({_said(split, loaded.left_out)})" if loaded.left_out else ""
            cure = f"no {split} task is left; loosen data.options{reasons}"
            raise DataError(Problem("data.options", recipe.data.options, cure))
    train = found["train"].tasks
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, SupervisedStage):
            dotted.load(stage.demonstrate, f"stages.{index}.demonstrate")(train[0].data)
    chosen = held_out(found["validation"].tasks, recipe.evaluation.tasks)
    for key in recipe.evaluation.by:
        if not any(key in task.data for task in chosen):
            keys = ", ".join(sorted({key for task in chosen for key in task.data}))
            raise DataError(Problem("evaluation.by", key, f"no held-out task has it; there are {keys}"))
    said = [_said(split, loaded.left_out) for split, loaded in found.items() if loaded.left_out]
    return Tasks(train, chosen, said)


def _splits(recipe: Recipe) -> dict[str, TaskSet]:
    load = dotted.load(recipe.data.load, "data.load")

    def loaded(split: str) -> TaskSet:
        found = load(recipe.data.path, split, **recipe.data.options)
        return found if isinstance(found, TaskSet) else TaskSet(found)

    whole = loaded("train")
    if recipe.data.validation_share is None:
        return {"train": whole, "validation": loaded("validation")}
    train, validation = split_by_id(whole.tasks, recipe.data.validation_share)
    return {"train": TaskSet(train, whole.left_out), "validation": TaskSet(validation)}


def _said(split: str, left_out: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    return f"{sum(left_out.values())} rows of {split} left out: {reasons}"
