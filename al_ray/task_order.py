"""Which tasks a step trains on and which are held out: pure functions, so that a resumed run asks
for the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from al_ray.types import Task

_HELD_OUT_SEED = 0x5EED
"""The same for every run, so that runs can be compared."""


def held_out(tasks: Sequence[Task], count: int) -> list[Task]:
    """The first ``count`` of a fixed shuffle."""
    order = np.random.default_rng(_HELD_OUT_SEED).permutation(len(tasks))
    return [tasks[index] for index in order[:count]]


def tasks_of_step(tasks: Sequence[Task], count: int, step: int, seed: Sequence[int]) -> list[Task]:
    """The ``count`` tasks of ``step`` (from 0): every epoch is a fresh shuffle of all of them.

    ``seed`` is a sequence of non-negative integers, for example the run's seed and the stage.
    """
    first = step * count
    permutations: dict[int, np.ndarray] = {}
    chosen = []
    for position in range(first, first + count):
        epoch, offset = divmod(position, len(tasks))
        if epoch not in permutations:
            permutations[epoch] = np.random.default_rng([*seed, epoch]).permutation(len(tasks))
        chosen.append(tasks[permutations[epoch][offset]])
    return chosen
