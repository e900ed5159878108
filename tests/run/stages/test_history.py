"""By a curriculum a step asks for a function of recipe, seed and the rollouts of the steps before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from al_ray.database.backends import sqlite_url
from al_ray.database.reader import Records
from al_ray.database.writer import Ask, Database
from al_ray.recipe import Recipe, TransitionsSection
from al_ray.recipe.schedule import Admission, stage_spans
from al_ray.reports.names import FURTHER
from al_ray.rollouts.requests import rollout_requests, step_batch
from al_ray.run.stages.history import History, told_of
from al_ray.run.stages.stage import stage_of
from al_ray.traces import semconv
from al_ray.traces.reward_span import reward_attributes
from al_ray.types import Attempt, AttemptStatus, RolloutRequest, Span, SpanKind, Task
from tests.support.runs import toy
from tests.support.runs.metric_keys import missing

TASKS = [Task(str(index), {"word": str(index)}) for index in range(8)]
MEMORY = 8


def stage(seed: int = 0, staleness: int = 0, **transitions: Any) -> Any:
    content = toy.recipe(Path("model"), Path("out")) | {"seed": seed, "transitions": transitions}
    content["stages"] = [
        {
            **content["stages"][1],
            "steps": 60,
            "kl_coefficient": 0,
            "curriculum": {"memory": MEMORY},
            "staleness": staleness,
        }
    ]
    recipe = Recipe.model_validate(content)
    return stage_of(recipe, stage_spans(recipe)[0], TASKS)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(sqlite_url(tmp_path / "store.sqlite"))
    yield made
    made.close()


def solves(request: RolloutRequest) -> float | None:
    """Task 0 always, 1 and 2 never, 3 fails; the others every second time, if they do not say themselves."""
    if "reward" in request.task.data:
        return float(request.task.data["reward"])
    task, member = int(request.task.id), int(request.id.rpartition("/")[2])
    return {0: 1.0, 1: 0.0, 2: 0.5, 3: None}.get(task, float(member % 2))


def play(database: Database, requests: Sequence[RolloutRequest]) -> None:
    with database.begin() as connection:
        database.enqueue(connection, requests)
        (claims,) = database.claim(connection, [Ask("w", requests[0].id, 99)], 1.0, 30.0, 31.0)
        for claim in claims:
            name, reward = claim.request.id, solves(claim.request)
            status = AttemptStatus.SUCCEEDED if reward is not None else AttemptStatus.TIMED_OUT
            attributes = reward_attributes({"reward": reward or 0.0})
            span = Span(f"{name}/r", name, 1, SpanKind.REWARD, "reward", 1, 1, attributes)
            if reward is None:
                answer = {semconv.CHOICES: [{"ids": [3], "logprobs": [-1.0], "versions": [[5, 0, 1]]}]}
                span = Span(f"{name}/c", name, 1, SpanKind.CALL, "chat", 1, 1, answer)
            ended = Attempt(name, 1, "", status, ended_at=2.0)
            database.finish(connection, [(ended, [span])])


async def asked(made: Any, records: Records, step: int) -> list[RolloutRequest]:
    class TheAgents:
        pass

    agents: Any = TheAgents()
    agents.records = records
    requests: list[RolloutRequest] = made.requests(step, 0, await made.tries(step, agents))
    return requests


async def test_tasks_that_are_always_or_never_solved_are_asked_less_but_still_asked(
    database: Database,
) -> None:
    made, times = stage(), Counter[str]()
    for step in range(60):
        requests = await asked(made, database, step)
        play(database, requests)
        times.update({request.task.id for request in requests} if step >= 10 else ())
    settled = [times[name] for name in "012"]
    sometimes = [times[name] for name in "4567"]
    assert min(settled) > 0 and max(settled) < min(sometimes), times
    assert times["3"] > 0, "nothing is known of what always fails"


async def test_a_resumed_run_asks_for_the_same_whatever_the_store_holds_of_later_steps(
    database: Database,
) -> None:
    first, kept = stage(), []
    for step in range(12):
        kept.append(await asked(first, database, step))
        play(database, kept[-1])
    for begun in (0, 5, 11):
        again = stage()
        for step in range(begun, 12):
            assert await asked(again, database, step) == kept[step]
    other = stage(seed=1)
    assert [r.task for r in await asked(other, database, 5)] != [r.task for r in kept[5]]


async def test_what_is_asked_for_ahead_goes_by_the_steps_alone_that_had_ended_for_sure(
    database: Database,
) -> None:
    """A batch asked for two steps ahead: the same for a run that goes on and finds later steps ended."""
    first, kept = stage(staleness=2), dict[int, list[RolloutRequest]]()
    admission = Admission(first.span)
    for step in range(12):
        for batch in admission.due(step):
            if batch not in kept:
                kept[batch] = await asked(first, database, batch)
        play(database, kept[step])
        if step % 2 and step + 1 in kept:  # it is early
            play(database, kept[step + 1])
    for begun in (0, 5, 9):
        again = stage(staleness=2)
        for batch in range(begun, 12):
            assert await asked(again, database, batch) == kept[batch]


async def test_what_always_fails_is_asked_less_where_the_recipe_says_what_that_is_worth(
    database: Database,
) -> None:
    made, times = stage(failed_reward=0.0), Counter[str]()
    for step in range(60):
        requests = await asked(made, database, step)
        play(database, requests)
        times.update({request.task.id for request in requests} if step >= 10 else ())
    assert 0 < times["3"] < min(times[name] for name in "4567"), times


def test_a_refill_counts_with_the_step_that_it_is_of_whenever_it_was_asked_for(database: Database) -> None:
    """Also where the next batch was asked for before: a resumed run would else go by another order."""
    transitions = TransitionsSection()
    for batch, reward in ((step_batch(0), 0.0), (step_batch(1), 1.0), (step_batch(0, 1), 0.5)):
        of_batch = rollout_requests(stage().recipe, batch, [Task(str(reward), {})], 2, "train")
        play(database, [replace(request, task=Task("t", {"reward": reward})) for request in of_batch])
    on, again = History(), History()
    on.before(1, database, transitions, 4)
    assert on.before(2, database, transitions, 4) == again.before(2, database, transitions, 4)
    assert again.before(2, database, transitions, 4) == {"t": (0.5, 0.5, 1.0, 1.0)}


async def test_only_the_last_rollouts_of_a_task_count_and_what_is_told_fits(database: Database) -> None:
    made = stage()
    for step in range(30):
        play(database, await asked(made, database, step))
    agents: Any = type("Agents", (), {"records": database})
    tries = await made.tries(30, agents)
    assert max(map(len, tries.values())) == MEMORY and "3" not in tries
    told = told_of(tries, TASKS, made.settings.curriculum)
    assert told == {
        "curriculum/tried": 7 / 8,
        "curriculum/always_solved": 1 / 8,
        "curriculum/never_solved": 2 / 8,
    }
    assert not {key for key in missing(FURTHER, told) if key.startswith("curriculum/")}
