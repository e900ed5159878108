"""What the tasks of a run were rewarded with so far, as its store has it: what a curriculum goes by.

What is asked for at a step sees the rollouts of the steps before it and nothing else. So a run that goes on
asks for what it would have asked for, whatever the store holds of later steps by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from al_ray.data.curriculum import Worth, learnability
from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.recipe import CurriculumSection, TransitionsSection
from al_ray.rollouts.blame import is_the_models_doing
from al_ray.rollouts.requests import step_batch
from al_ray.rollouts.rewards import rewards
from al_ray.types import Rollout, RolloutRequest, RolloutStatus, SpanKind, Task

Tries = Mapping[str, Sequence[float]]
"""By a task's id the rewards of its last rollouts, in the order of the steps that asked for them."""


@dataclass(slots=True)
class History:
    """Each step's rollouts are read once."""

    _steps: int = 0
    """Read so far."""
    _tries: dict[str, deque[float]] = field(default_factory=dict)

    def before(self, step: int, records: Records, transitions: TransitionsSection, memory: int) -> Tries:
        """Of each task the last ``memory`` rollouts that are worth something to a step, up to a global step;
        what is returned does not change when later steps are read."""
        assert step >= self._steps, "steps are taken in order"
        # A step's refill is asked for after the batches that were due with it.
        played = sorted(_played(range(self._steps, step), records, transitions), key=_place)
        for request, reward in played:
            self._tries.setdefault(request.task.id, deque(maxlen=memory)).append(reward)
        self._steps = step
        return {task: tuple(last) for task, last in self._tries.items()}


def _place(played: tuple[RolloutRequest, float]) -> tuple[str, str]:
    request, _ = played
    return request.batch, request.id


def _played(
    steps: range, records: Records, transitions: TransitionsSection
) -> Iterator[tuple[RolloutRequest, float]]:
    """The rollouts of the steps that are worth something, and what."""

    def ended(status: RolloutStatus, kind: SpanKind) -> Sequence[Rollout]:
        of_steps = [
            Condition("mode", "=", "train"),
            Condition("status", "=", status),
            Condition("batch", ">=", step_batch(steps.start)),
            Condition("batch", "<", step_batch(steps.stop)),
        ]
        return records.find_rollouts(Query(of_steps), [kind]).items

    for rollout in ended(RolloutStatus.SUCCEEDED, SpanKind.REWARD):
        given = rewards(rollout)
        if transitions.reward in given:
            yield rollout.request, given[transitions.reward]
    if transitions.failed_reward is not None:
        for rollout in ended(RolloutStatus.FAILED, SpanKind.CALL):
            if is_the_models_doing(rollout):
                yield rollout.request, transitions.failed_reward


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
