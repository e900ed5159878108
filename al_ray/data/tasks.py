"""The tasks that a recipe names, loaded once before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from al_ray.data.task_order import held_out, split_by_id
from al_ray.errors import DataError, Problem, UserError, in_a_line
from al_ray.protocols import Demonstration
from al_ray.recipe import Recipe, SupervisedStage, dotted
from al_ray.types import Task, TaskSet

_SHOWN: Final = 5
"""Mistakes and ids that are told of many."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of a run."""

    train: Sequence[Task]
    held_out: Sequence[Task]
    left_out: Sequence[str] = ()
    """A line for each split that left rows out, for the user."""


def load_tasks(recipe: Recipe) -> Tasks:
    """Load both splits, look at every task, and try the first. Raises ``DataError``."""
    found = _splits(recipe)
    for split, loaded in found.items():
        if not loaded.tasks:
            reasons = f" ({_said(split, loaded.left_out)})" if loaded.left_out else ""
            cure = f"no {split} task is left; loosen data.options{reasons}"
            raise DataError(Problem("data.options", recipe.data.options, cure))
    if problems := _shared_ids(found):
        raise DataError(*problems)
    train = found["train"].tasks
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, SupervisedStage):
            _try_demonstration(stage, f"stages.{index}.demonstrate", train[0])
    chosen = held_out(found["validation"].tasks, recipe.evaluation.tasks)
    for key in recipe.evaluation.by:
        if not any(key in task.data for task in chosen):
            keys = ", ".join(sorted({key for task in chosen for key in task.data}))
            raise DataError(Problem("evaluation.by", key, f"no held-out task has it; there are {keys}"))
    said = [_said(split, loaded.left_out) for split, loaded in found.items() if loaded.left_out]
    return Tasks(train, chosen, said)


def _splits(recipe: Recipe) -> dict[str, TaskSet]:
    whole = _loaded(recipe, "train")
    if recipe.data.validation_share is None:
        return {"train": whole, "validation": _loaded(recipe, "validation")}
    train, validation = split_by_id(whole.tasks, recipe.data.validation_share)
    return {"train": TaskSet(train, whole.left_out), "validation": TaskSet(validation)}


def _loaded(recipe: Recipe, split: str) -> TaskSet:
    """The tasks of a split, each as it must be."""
    path = recipe.data.load
    load = dotted.load(path, "data.load")
    try:
        found = load(recipe.data.path, split, **recipe.data.options)
        left_out = found.left_out if isinstance(found, TaskSet) else {}
        tasks = list(found.tasks if isinstance(found, TaskSet) else found)
    except UserError:
        raise
    except Exception as error:  # whatever the user's loader raises
        cure = f"failed on the split {split!r}: {in_a_line(error)}"
        raise DataError(Problem("data.load", path, cure)) from error
    wrong = [problem for index, task in enumerate(tasks) if (problem := _problem(path, split, index, task))]
    wrong = wrong or _repeated_ids(path, split, tasks)
    if wrong:
        more = [] if len(wrong) <= _SHOWN else [Problem("data.load", path, f"{len(wrong) - _SHOWN} more so")]
        raise DataError(*wrong[:_SHOWN], *more)
    return TaskSet(tasks, left_out)


def _problem(path: str, split: str, index: int, task: object) -> Problem | None:
    """What is wrong with what a loader gave as a task, if anything."""
    where = f"data.load {path}, task {index} of {split}"
    if not isinstance(task, Task):
        cure = "must be an al_ray.types.Task(id, data, split)"
        return Problem(where, task, f"is of type {type(task).__name__}; it {cure}")
    if not isinstance(task.id, str) or not task.id:
        return Problem(f"{where}, id", task.id, "must be a text that names the task")
    if not isinstance(task.data, Mapping):
        return Problem(f"{where}, data", task.data, "must be a mapping: what the agent is given")
    try:
        orjson.dumps(dict(task.data))
    except (TypeError, orjson.JSONEncodeError) as error:
        return Problem(f"{where}, data", task.id, f"must be JSON, for it is stored and sent: {error}")
    return None


def _repeated_ids(path: str, split: str, tasks: Sequence[Task]) -> list[Problem]:
    places: dict[str, list[int]] = {}
    for index, task in enumerate(tasks):
        places.setdefault(task.id, []).append(index)
    return [
        Problem(
            f"data.load {path}, {split}",
            name,
            f"is the id of {len(at)} tasks, those at {', '.join(map(str, at[:_SHOWN]))}: each needs its own",
        )
        for name, at in places.items()
        if len(at) > 1
    ]


def _shared_ids(splits: Mapping[str, TaskSet]) -> list[Problem]:
    """What is both trained on and held out measures nothing."""
    train = {task.id for task in splits["train"].tasks}
    shared = [task.id for task in splits["validation"].tasks if task.id in train]
    if not shared:
        return []
    some = ", ".join(map(repr, shared[:_SHOWN])) + (", ..." if len(shared) > _SHOWN else "")
    cure = f"{len(shared)} ids are in both: give each split ids and tasks of its own, or name one split and "
    return [Problem("data.load, train and validation", some, f"{cure}data.validation_share")]


def _try_demonstration(stage: SupervisedStage, where: str, task: Task) -> None:
    demonstrate = dotted.load(stage.demonstrate, where)
    try:
        shown = demonstrate(task.data)
    except UserError:
        raise
    except Exception as error:  # whatever the user's teacher raises
        cure = f"failed on the task {task.id!r}: {in_a_line(error)}"
        raise DataError(Problem(where, stage.demonstrate, cure)) from error
    if not isinstance(shown, Demonstration):
        cure = f"gave a {type(shown).__name__} for the task {task.id!r}; it must be a Demonstration"
        raise DataError(Problem(where, stage.demonstrate, f"{cure} (al_ray.protocols)"))


def _said(split: str, left_out: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    return f"{sum(left_out.values())} rows of {split} left out: {reasons}"
