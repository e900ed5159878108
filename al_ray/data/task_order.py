"""Which tasks a step trains on and which are held out: pure functions, so that a resumed run asks
for the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from types import MappingProxyType

import numpy as np
import orjson

from al_ray.types import JSON, Task

_HELD_OUT_SEED = 0x5EED
"""The same for every run, so that runs can be compared."""


def held_out(tasks: Sequence[Task], count: int) -> list[Task]:
    """The first ``count`` of a fixed shuffle."""
    order = np.random.default_rng(_HELD_OUT_SEED).permutation(len(tasks))
    return [tasks[index] for index in order[:count]]


def split_by_id(
    tasks: Sequence[Task], share: float, families: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[Task], list[Task]]:
    """Those to train on and about ``share`` of all for validation, by whole families, as ``TaskSet`` has
    them; one that is larger than the share is trained on. Where a task goes depends on its family, or its
    id, alone: rows may be added, filtered or moved, and no task changes sides."""
    sizes = Counter(families.values())
    train, validation = [], []
    for task in tasks:
        family = families.get(task.id, task.id)
        place = int.from_bytes(hashlib.sha256(family.encode()).digest()[:8]) / 2**64
        if place < share and sizes[family] <= share * len(families):
            validation.append(replace(task, split="validation"))
        else:
            train.append(task)
    return train, validation


def digest(tasks: Iterable[Task]) -> str:
    """Differs for other tasks, or for the same in another order."""
    found = hashlib.sha256()
    for task in tasks:
        said = [task.id, without_places(task.data), task.split]
        found.update(orjson.dumps(said, option=orjson.OPT_SORT_KEYS))
    return found.hexdigest()


def without_places(data: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """A task's data as it is wherever its files lie: of an absolute path, the name alone."""
    return {
        key: PurePath(value).name if isinstance(value, str) and value.startswith("/") else value
        for key, value in data.items()
    }


def tasks_at(tasks: Sequence[Task], first: int, count: int, seed: Sequence[int]) -> list[Task]:
    """Those at ``count`` places of the epochs laid end to end, from the place ``first`` (from 0) on. Every
    epoch is a fresh shuffle of all tasks, by ``seed``: non-negative integers, the run's and the stage's."""
    permutations: dict[int, np.ndarray] = {}
    chosen = []
    for position in range(first, first + count):
        epoch, offset = divmod(position, len(tasks))
        if epoch not in permutations:
            permutations[epoch] = np.random.default_rng([*seed, epoch]).permutation(len(tasks))
        chosen.append(tasks[permutations[epoch][offset]])
    return chosen
