"""What the tasks of a run were rewarded with so far, as its store has it: what a curriculum goes by.

What is asked for at a step sees the rollouts of the steps before it and nothing else. So a run that goes on
asks for what it would have asked for, whatever the store holds of later steps by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from al_ray.data.curriculum import Worth, learnability
from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.recipe import CurriculumSection
from al_ray.rollouts.requests import step_batch
from al_ray.rollouts.rewards import rewards
from al_ray.types import RolloutStatus, SpanKind, Task

Tries = Mapping[str, Sequence[float]]
"""By a task's id the rewards of its last rollouts, in the order in which they were asked for."""


@dataclass(slots=True)
class History:
    """Each step's rollouts are read once."""

    _steps: int = 0
    """Read so far."""
    _tries: dict[str, deque[float]] = field(default_factory=dict)

    def before(self, step: int, records: Records, reward: str, memory: int) -> Tries:
        """Of each task the last ``memory`` rollouts that have the ``reward``, up to a global step; what is
        returned does not change when later steps are read."""
        assert step >= self._steps, "steps are taken in order"
        of_steps = [
            Condition("mode", "=", "train"),
            Condition("status", "=", RolloutStatus.SUCCEEDED),
            Condition("batch", ">=", step_batch(self._steps)),
            Condition("batch", "<", step_batch(step)),
        ]
        for rollout in records.find_rollouts(Query(of_steps), [SpanKind.REWARD]).items:
            given = rewards(rollout)
            if reward in given:
                last = self._tries.setdefault(rollout.request.task.id, deque(maxlen=memory))
                last.append(given[reward])
        self._steps = step
        return {task: tuple(last) for task, last in self._tries.items()}


def worth_of(tries: Tries, curriculum: CurriculumSection) -> Worth:
    """How learnable each task is."""

    def worth(task: Task) -> float:
        given = tries.get(task.id, ())
        return learnability(sum(reward >= curriculum.solved for reward in given), len(given))

    return worth


def told_of(tries: Tries, tasks: Sequence[Task], curriculum: CurriculumSection) -> dict[str, float]:
    """Shares of the training tasks."""
    solved = [
        [reward >= curriculum.solved for reward in tries[task.id]] for task in tasks if task.id in tries
    ]
    return {
        "curriculum/tried": len(solved) / len(tasks),
        "curriculum/always_solved": sum(map(all, solved)) / len(tasks),
        "curriculum/never_solved": sum(not any(each) for each in solved) / len(tasks),
    }
