"""What is checked, with the recipe alone, before anything is started: data and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from al_ray import dotted
from al_ray.config import Recipe, SupervisedStage
from al_ray.errors import DataError, Problem
from al_ray.task_order import held_out
from al_ray.types import Task


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of a run."""

    train: Sequence[Task]
    held_out: Sequence[Task]


def tasks(recipe: Recipe) -> Tasks:
    """Load both splits and try the first task. Raises ``DataError``."""
    load = dotted.load(recipe.data.load, "data.load")
    train = load(recipe.data.path, "train", **recipe.data.options)
    validation = load(recipe.data.path, "validation", **recipe.data.options)
    for split, found in (("train", train), ("validation", validation)):
        if not found:
            cure = f"no {split} task is left; loosen data.options"
            raise DataError(Problem("data.options", recipe.data.options, cure))
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, SupervisedStage):
            dotted.load(stage.demonstrate, f"stages.{index}.demonstrate")(train[0].data)
    return Tasks(train, held_out(validation, recipe.evaluation.tasks))
