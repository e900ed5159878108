"""The tasks that a recipe names, loaded once before anything is started."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson

from al_ray.data.files import has_half_pair
from al_ray.data.mixture import SOURCE
from al_ray.data.task_order import held_out, split_by_id
from al_ray.errors import DataError, Problem, UserError, in_a_line
from al_ray.protocols import Demonstration
from al_ray.recipe import DataSection, Recipe, SupervisedStage, dotted
from al_ray.types import Task, TaskSet

_SHOWN: Final = 5
"""Mistakes and ids that are told of many."""
_AS_TYPED: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
"""No agent is given a text for what its loader gave as a date."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of a run."""

    train: Sequence[Task]
    held_out: Sequence[Task]
    left_out: Sequence[str] = ()
    """A line for each split that left rows out, for the user."""


def load_tasks(recipe: Recipe) -> Tasks:
    """Load both splits of every source, look at every task, and try the first. Raises ``DataError``."""
    found = [_source(recipe, place, data) for place, data in recipe.data.each.items()]
    train = [task for source in found for task in source.train]
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, SupervisedStage):
            for source in found:
                _try_demonstration(stage, f"stages.{index}.demonstrate", source.train[0])
    chosen = [task for source in found for task in source.held_out]
    if recipe.data.sources and (problems := _shared_by_sources(train, chosen)):
        raise DataError(*problems)
    for key in recipe.evaluation.by:
        if not any(key in task.data for task in chosen):
            keys = ", ".join(sorted({key for task in chosen for key in task.data}))
            raise DataError(Problem("evaluation.by", key, f"no held-out task has it; there are {keys}"))
    return Tasks(train, chosen, [line for source in found for line in source.left_out])


def _source(recipe: Recipe, place: str, data: DataSection) -> Tasks:
    """Those of one source; ``place`` is where the recipe has it."""
    found = _splits(place, data)
    for split, loaded in found.items():
        if not loaded.tasks:
            raise DataError(_none(place, data, split, loaded))
    if problems := _shared_ids(place, found):
        raise DataError(*problems)
    chosen = held_out(found["validation"].tasks, recipe.evaluation.tasks)
    said = [_said(split, loaded.left_out) for split, loaded in found.items() if loaded.left_out]
    if not recipe.data.sources:
        return Tasks(found["train"].tasks, chosen, said)
    name = place.removeprefix("data.sources.")
    train, chosen = (
        [_named(place, name, task) for task in tasks] for tasks in (found["train"].tasks, chosen)
    )
    return Tasks(train, chosen, [f"{name}: {line}" for line in said])


def _none(place: str, data: DataSection, split: str, loaded: TaskSet) -> Problem:
    """A split without a task: its options have left all rows out, or it has none."""
    if not data.options and not loaded.left_out:
        cure = f"gave no task of the split {split!r}; is there none in data.path, {data.path!r}?"
        return Problem(f"{place}.load", data.load, cure)
    reasons = f" ({_said(split, loaded.left_out)})" if loaded.left_out else ""
    cure = f"no {split} task is left; loosen {place}.options{reasons}"
    return Problem(f"{place}.options", data.options, cure)


def _named(place: str, name: str, task: Task) -> Task:
    """The task as one of a source: no two sources share an id, and whoever has the task knows the source."""
    if task.data.get(SOURCE, name) != name:
        cure = f"is told in the data of task {task.id!r}: that key names the source, {name!r}"
        raise DataError(Problem(f"{place}.load, {SOURCE}", task.data[SOURCE], cure))
    return replace(task, id=f"{name}/{task.id}", data={**task.data, SOURCE: name})


def _splits(place: str, data: DataSection) -> dict[str, TaskSet]:
    whole = _loaded(place, data, "train")
    if data.validation_share is None:
        return {"train": whole, "validation": _loaded(place, data, "validation")}
    train, validation = split_by_id(whole.tasks, data.validation_share, whole.families)
    count = len(whole.tasks)
    for tasks, cure in (
        (train, f"all of the {count} tasks fall into it: lower it"),
        (validation, f"none of the {count} tasks falls into it: raise it"),
    ):
        if whole.tasks and not tasks:
            raise DataError(Problem(f"{place}.validation_share", data.validation_share, cure))
    return {"train": TaskSet(train, whole.left_out), "validation": TaskSet(validation)}


def _loaded(place: str, data: DataSection, split: str) -> TaskSet:
    """The tasks of a split, each as it must be."""
    path = data.load
    assert path is not None, "the recipe was checked"
    load = dotted.load(path, f"{place}.load")
    try:
        found = load(data.path, split, **data.options)
        if not isinstance(found, TaskSet | Iterable):
            cure = f"gave a {type(found).__name__} for the split {split!r}; it must be a list of Tasks"
            raise DataError(Problem(f"{place}.load", path, cure))
        told = found if isinstance(found, TaskSet) else TaskSet(list(found))
        tasks = list(told.tasks)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's loader raises
        cure = f"failed on the split {split!r}: {in_a_line(error)}"
        raise DataError(Problem(f"{place}.load", path, cure)) from error
    where = f"{place}.load {path}"
    wrong = [problem for index, task in enumerate(tasks) if (problem := _problem(where, split, index, task))]
    wrong = wrong or _repeated_ids(where, split, tasks)
    if wrong:
        more = (
            [] if len(wrong) <= _SHOWN else [Problem(f"{place}.load", path, f"{len(wrong) - _SHOWN} more so")]
        )
        raise DataError(*wrong[:_SHOWN], *more)
    return replace(told, tasks=tasks)


def _problem(loader: str, split: str, index: int, task: object) -> Problem | None:
    """What is wrong with what a loader gave as a task, if anything."""
    where = f"{loader}, task {index} of {split}"
    if not isinstance(task, Task):
        cure = "must be an al_ray.types.Task(id, data, split)"
        return Problem(where, task, f"is of type {type(task).__name__}; it {cure}")
    if not isinstance(task.id, str) or not task.id:
        return Problem(f"{where}, id", task.id, "must be a text that names the task")
    if has_half_pair(task.id):
        return Problem(f"{where}, id", task.id, "holds half a surrogate pair, which is no character")
    if "\x00" in task.id:
        return Problem(f"{where}, id", task.id, "holds NUL, which PostgreSQL does not store")
    if not isinstance(task.data, Mapping):
        return Problem(f"{where}, data", task.data, "must be a mapping: what the agent is given")
    try:
        orjson.dumps(dict(task.data), option=_AS_TYPED)
    except (TypeError, orjson.JSONEncodeError) as error:
        return Problem(f"{where}, data", task.id, f"must be JSON, for it is stored and sent: {error}")
    return next(_no_numbers(task.data, f"{where}, data"), None)


def _no_numbers(value: object, place: str) -> Iterator[Problem]:
    """The floats that JSON has not, which would be stored as null."""
    if isinstance(value, float) and not math.isfinite(value):
        yield Problem(place, value, "is no number in JSON: write null, or leave the key out")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _no_numbers(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _no_numbers(item, f"{place}.{index}")


def _repeated_ids(loader: str, split: str, tasks: Sequence[Task]) -> list[Problem]:
    places: dict[str, list[int]] = {}
    for index, task in enumerate(tasks):
        places.setdefault(task.id, []).append(index)
    return [
        Problem(
            f"{loader}, {split}",
            name,
            f"is the id of {len(at)} tasks, those at {', '.join(map(str, at[:_SHOWN]))}: each needs its own",
        )
        for name, at in places.items()
        if len(at) > 1
    ]


def _shared_ids(place: str, splits: Mapping[str, TaskSet]) -> list[Problem]:
    """What is both trained on and held out measures nothing."""
    train = {task.id for task in splits["train"].tasks}
    shared = [task.id for task in splits["validation"].tasks if task.id in train]
    if not shared:
        return []
    some = ", ".join(map(repr, shared[:_SHOWN])) + (", ..." if len(shared) > _SHOWN else "")
    cure = f"{len(shared)} ids are in both: give each split ids and tasks of its own, or name one split and "
    return [Problem(f"{place}.load, train and validation", some, f"{cure}{place}.validation_share")]


def _shared_by_sources(train: Sequence[Task], chosen: Sequence[Task]) -> list[Problem]:
    """What one source holds out and another gives to train on: the same id and data."""

    def said(task: Task) -> tuple[str, bytes]:
        own = {key: value for key, value in task.data.items() if key != SOURCE}
        return task.id.removeprefix(f"{task.data[SOURCE]}/"), orjson.dumps(own, option=orjson.OPT_SORT_KEYS)

    trained = {said(task): task.id for task in train}
    shared = [f"{task.id!r} is {trained[key]!r}" for task in chosen if (key := said(task)) in trained]
    if not shared:
        return []
    cure = "tasks that one source holds out are another's to train on: give each source data of its own"
    return [Problem("data.sources", ", ".join(shared[:_SHOWN]), f"{len(shared)} {cure}")]


def _try_demonstration(stage: SupervisedStage, where: str, task: Task) -> None:
    demonstrate = dotted.load(stage.demonstrate, where)
    try:
        shown = demonstrate(task.data)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's teacher raises
        cure = f"failed on the task {task.id!r}: {in_a_line(error)}"
        raise DataError(Problem(where, stage.demonstrate, cure)) from error
    if not isinstance(shown, Demonstration):
        cure = f"gave a {type(shown).__name__} for the task {task.id!r}; it must be a Demonstration"
        raise DataError(Problem(where, stage.demonstrate, f"{cure} (al_ray.protocols)"))
    if not any(message.get("role") == "assistant" for message in shown.messages):
        cure = f"has no message of the assistant for the task {task.id!r}; these are what is learnt from"
        raise DataError(Problem(where, stage.demonstrate, cure))


def _said(split: str, left_out: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    return f"{sum(left_out.values())} rows of {split} left out: {reasons}"
