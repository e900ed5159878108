"""Several sets of tasks in one training, each in its share: pure functions, as in ``task_order``.

A task of a recipe with several sources says in its data, under ``SOURCE``, which it is of.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from al_ray.data.curriculum import Worth, drawn
from al_ray.data.task_order import tasks_at
from al_ray.recipe import DataSection
from al_ray.types import Task

SOURCE: Final = "data_source"
"""The key of a task's data."""
_GOLDEN: Final = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Source:
    """Some of a run's training tasks, and how often they are asked beside the others."""

    tasks: Sequence[Task]
    weight: float = 1.0


def sources_of(data: DataSection, tasks: Sequence[Task]) -> list[Source]:
    """The ``tasks`` by source; all are one where the recipe has no several."""
    if not data.sources:
        return [Source(tasks)]
    return [
        Source([task for task in tasks if task.data[SOURCE] == name], source.weight)
        for name, source in data.sources.items()
    ]


def mixed_tasks_of_step(
    sources: Sequence[Source],
    count: int,
    step: int,
    seed: Sequence[int],
    asked: Collection[str] = (),
    worth: Worth | None = None,
) -> list[Task]:
    """The ``count`` tasks of ``step`` (from 0). Every source goes through epochs of its own, or, where tasks
    are ``worth`` something, its tasks are drawn by that; those whose ids were ``asked`` already are left out
    while there are others."""
    turns = whose_turns(sources, (step + 1) * count)
    before, now = turns[: step * count], turns[step * count :]
    own = []
    for place, source in enumerate(sources):
        tasks = [task for task in source.tasks if task.id not in asked] or source.tasks
        wanted, earlier = int((now == place).sum()), int((before == place).sum())
        seed_of_source = [*seed, place] if len(sources) > 1 else seed
        if worth is None:
            own.append(iter(tasks_at(tasks, earlier, wanted, seed_of_source)))
        else:
            own.append(iter(drawn(tasks, wanted, worth, [*seed_of_source, step])))
    return [next(own[place]) for place in now]


def whose_turns(sources: Sequence[Source], count: int) -> np.ndarray:
    """The source of each of the first ``count`` tasks of a stage, int64 ``[count]``.

    Points that are a golden section apart fill any interval evenly: after any number of tasks, each source
    has had its share but for a few.
    """
    ends = np.cumsum([source.weight for source in sources])
    points = (np.arange(1, count + 1) * _GOLDEN % 1) * ends[-1]
    return np.minimum(np.searchsorted(ends, points, side="right"), len(sources) - 1)
