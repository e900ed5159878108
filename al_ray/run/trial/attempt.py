"""One attempt at one task, recorded as a run's are, made by whoever tries it: no runner, no lease, no retry,
and no timeout, for somebody may sit in a debugger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final

from al_ray.actors.agent.job import Job
from al_ray.actors.agent.printed import Printed
from al_ray.actors.runner.actor import as_json
from al_ray.actors.runner.failure import failed
from al_ray.actors.runner.hooks import Hooks
from al_ray.actors.runner.scoring import Scoring
from al_ray.actors.runner.user_code import UserCode
from al_ray.data.tasks import Tasks
from al_ray.database.writer import Ask, Database
from al_ray.errors import Problem, UserError
from al_ray.recipe import Recipe
from al_ray.run.trial.agent import output_of
from al_ray.run.trial.house import House
from al_ray.types import (
    Attempt,
    AttemptStatus,
    Claim,
    Endpoint,
    RetryRules,
    Rollout,
    RolloutRequest,
    Span,
    Start,
    Task,
)

_NAMED: Final = 8
"""Ids that are told of many."""
_FOR_EVER: Final = 1e9
"""Seconds: nobody takes the attempt away."""


@dataclass(frozen=True, slots=True)
class Tried:
    """An attempt that has ended."""

    rollout: Rollout
    raised: BaseException | None
    """What ended it, as it was raised by agent, hook or reward."""
    seconds: float


def chosen(tasks: Tasks, name: str | None) -> Task:
    """The task of this id; without one the first that is held out. Raises ``UserError``."""
    every = [*tasks.held_out, *tasks.train]
    if name is None:
        return every[0]
    found = next((task for task in every if task.id == name), None)
    if found is None:
        ids = [task.id for task in every]
        some = get_close_matches(name, ids, _NAMED, cutoff=0.3) or ids
        told = ", ".join(some[:_NAMED]) + (", ..." if len(ids) > _NAMED else "")
        raise UserError(Problem("--task", name, f"no task of the recipe has this id; there are {told}"))
    return found


def attempted(recipe: Recipe, task: Task, database: Database, house: House) -> Tried:
    """Run the agent on the task, sampled as evaluations are, and score it as they are."""
    claim = _claim(database, task)
    endpoint = Endpoint(house.base_url, claim.attempt.key, recipe.model.name, house.services)
    job = Job(claim.request, claim.attempt, endpoint, Printed())
    code = UserCode(recipe.agent.grace)
    begun = time.perf_counter()
    ended, rewards, raised = _played(recipe, job, database, code)
    seconds = time.perf_counter() - begun
    ended = replace(asyncio.run(Hooks(recipe.agent, code).after(job, ended)), ended_at=time.time())
    if ended.status is not AttemptStatus.SUCCEEDED:
        rewards = ()
    with database.begin() as connection:
        database.finish(connection, [(ended, [*job.printed.spans(ended), *rewards])])
    rollout = database.rollout(claim.request.id)
    assert rollout is not None
    return Tried(rollout, raised, seconds)


def _claim(database: Database, task: Task) -> Claim:
    request = RolloutRequest("try", "try", "try", task, "eval", RetryRules(max_attempts=1))
    now = time.time()
    with database.begin() as connection:
        database.enqueue(connection, [request])
        ask = Ask("this process", "try", 1)
        ((claim,),) = database.claim(connection, [ask], now, _FOR_EVER, now + _FOR_EVER)
        database.start(connection, [Start(claim.attempt.rollout_id, claim.attempt.number)])
    return claim


def _played(
    recipe: Recipe, job: Job, database: Database, code: UserCode
) -> tuple[Attempt, Sequence[Span], BaseException | None]:
    """Hook, agent and reward. Raises ``KeyboardInterrupt`` alone."""

    async def rewarded(rollout_id: str, number: int) -> bool:
        return database.rewarded(rollout_id, number)

    attempt = job.attempt
    try:
        asyncio.run(Hooks(recipe.agent, code).before(job))
        output = output_of(recipe.agent, job)
        attempt = replace(attempt, output=as_json(output))
        rewards = asyncio.run(Scoring(recipe.agent, rewarded, code).terminal(job, output))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return failed(attempt, error), (), error
    return replace(attempt, status=AttemptStatus.SUCCEEDED), rewards, None
