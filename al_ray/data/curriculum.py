"""A curriculum: tasks that are solved sometimes are asked more often than those that always or never are.

A group whose rollouts are all worth the same teaches nothing. Pure functions of what was tried before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from al_ray.types import Task

Worth = Callable[[Task], float]
"""In which proportion a task is asked; above 0."""


def learnability(solved: int, tried: int) -> float:
    """The expectation of ``p (1 - p)`` for a task that ``tried`` rollouts have solved ``solved`` times, when
    before that every share ``p`` of success was as likely as any other (a Beta posterior).

    ``p (1 - p)`` is the variance of a reward of 0 or 1, and twice it the chance that two rollouts of the task
    end differently (Rutherford et al., arXiv 2408.15099; Foster and Foerster, arXiv 2502.12272). Its
    expectation needs no task to have been tried: 1/6 then, up to 1/4, and for one that is always or never
    solved it falls like 1 over the tries, but never to 0.
    """
    a, b = 1 + solved, 1 + tried - solved
    return a * b / ((a + b) * (a + b + 1))


def drawn(tasks: Sequence[Task], count: int, worth: Worth, seed: Sequence[int]) -> list[Task]:
    """``count`` tasks, none twice as long as there are others, each in proportion to what it is worth among
    those that are left (Efraimidis and Spirakis, Information Processing Letters 97, 2006)."""
    chosen = [task for _ in range(count // len(tasks)) for task in tasks]
    weights = np.array([worth(task) for task in tasks], np.float64)
    waits = np.random.default_rng([*seed]).exponential(size=len(tasks)) / weights
    first = np.argsort(waits, kind="stable")[: count - len(chosen)]
    return chosen + [tasks[index] for index in first]
