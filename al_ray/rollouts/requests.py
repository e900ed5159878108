"""What is asked for of tasks: rollouts in groups, whose ids are functions of batch and place alone, so that
asking twice is asking once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from al_ray.database.judged import judge_batch
from al_ray.recipe import Recipe
from al_ray.rollouts.blame import AROUND_THE_AGENT
from al_ray.types import AttemptStatus, Group, Mode, RetryRules, RolloutRequest, Task

TRAINING: Final = "step-"
EVALUATIONS: Final = "eval/step-"
"""By which the names of batches begin. A training step's tells how many steps come before it; an
evaluation's tells how many are done, as the name of a checkpoint's folder does."""
_OF_A_STEP: Final = re.compile(rf"{TRAINING}([0-9]+)(?:-refill-[0-9]+)?")


def evaluation_batch(step: int) -> str:
    """That of the evaluation after so many global steps."""
    return f"{EVALUATIONS}{step:06d}"


def step_batch(step: int, refill: int = 0) -> str:
    """That of the rollouts of a global step, or of one of its refills. By name they are in the order of the
    steps: a step's own, its judges and its refills come before those of the next."""
    return f"{TRAINING}{step:06d}" + (f"-refill-{refill}" if refill else "")


def step_of(request: RolloutRequest) -> int | None:
    """The global step, counted from 0, that asked for the rollout, to learn from it."""
    found = _OF_A_STEP.fullmatch(request.batch)
    return None if found is None or request.mode != "train" else int(found[1])


def rollout_requests(
    recipe: Recipe, batch: str, tasks: Sequence[Task], members: int, mode: Mode
) -> list[RolloutRequest]:
    """A group of ``members`` rollouts of each task."""
    counts = mode == "eval" or recipe.transitions.failed_reward is not None
    retry = retry_around_the_agent(recipe) if counts else recipe.agent.retry.rules
    return [
        RolloutRequest(
            id=f"{batch}/{position}/{member}",
            batch=batch,
            group=f"{batch}/{position}",
            task=task,
            mode=mode,
            retry=retry,
        )
        for position, task in enumerate(tasks)
        for member in range(members)
    ]


def judge_request(group: Group, retry: RetryRules) -> RolloutRequest:
    """The judge of a group that has ended."""
    return RolloutRequest(
        id=f"{group.id}/judge",
        batch=judge_batch(group.batch),
        group=group.id,
        task=group.rollouts[0].request.task,
        mode="judge",
        retry=retry,
    )


def retry_around_the_agent(recipe: Recipe) -> RetryRules:
    """Where a failure counts that is the model's doing, only others are tried again: the best of two tries
    would be another policy's."""
    retry = recipe.agent.retry.rules
    errors = AROUND_THE_AGENT if retry.errors is None else retry.errors
    return replace(retry, statuses=tuple(set(retry.statuses) & {AttemptStatus.FAILED}), errors=errors)
