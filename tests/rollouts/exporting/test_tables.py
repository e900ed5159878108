"""The rows of an export, of runs that were interrupted, searched, or broken by what is around the agents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from al_ray.database.backends import sqlite_url
from al_ray.database.writer import Ask, Database
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.exporting.tables import TABLES, Export, Row
from al_ray.rollouts.reading.search import Search
from al_ray.traces import semconv
from al_ray.types import Attempt, AttemptStatus, Claim, RolloutRequest, RolloutStatus, Span, SpanKind, Task


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(sqlite_url(tmp_path / "store.sqlite"))
    yield database
    database.close()


def requests(groups: int, members: int) -> list[RolloutRequest]:
    return [
        RolloutRequest(f"step-000000/{g}/{m}", "step-000000", f"step-000000/{g}", Task(f"t{g}", {}))
        for g in range(groups)
        for m in range(members)
    ]


def claimed(database: Database, asked: Sequence[RolloutRequest], name: str = "first") -> list[Claim]:
    """Of those that are asked for, all that wait; ``name`` is that of the claim."""
    with database.begin() as connection:
        database.enqueue(connection, asked)
        [claims] = database.claim(connection, [Ask("w", name, len(asked))], 1.0, 30.0, 130.0)
    return list(claims)


def end(
    database: Database, attempt: Attempt, reward: float, failed: str | None = None, choices: int = 1
) -> None:
    """With one call, rewarded so; ``failed`` is the class of the error that came after that, if one did."""
    name, number = attempt.rollout_id, attempt.number
    call = {
        semconv.AGENT_NAME: "solver",
        semconv.INPUT_MESSAGES: [{"role": "user", "content": "?"}],
        semconv.OUTPUT_MESSAGES: [{"role": "assistant", "content": f"answer {name}"}],
        semconv.FINISH_REASONS: ["stop"] * choices,
        semconv.PROMPT_IDS: [1],
        semconv.CHOICES: [{"ids": [7], "logprobs": [-0.5], "versions": [[0, 0, 1]]}] * choices,
    }
    spans = [
        Span(f"{name}/c", name, number, SpanKind.CALL, "chat", 0.0, 1.0, call),
        Span(f"{name}/r", name, number, SpanKind.REWARD, "reward", 1.0, 1.0, {semconv.REWARD: reward}),
    ]
    status = AttemptStatus.FAILED if failed else AttemptStatus.SUCCEEDED
    ended = replace(attempt, status=status, ended_at=2.0, error=failed, error_class=failed)
    with database.begin() as connection:
        database.append(connection, [spans])
        database.finish(connection, [(ended, ())])


def rows(database: Database, what: str, settings: TransitionsSection, **search: Any) -> list[Row]:
    return [*TABLES[what][1](Export(database, Search(**search), settings))]


def test_a_group_that_was_asked_for_in_two_goes_is_one_preference_of_its_best_and_its_worst(
    database: Database,
) -> None:
    """A run that goes on withdraws what had not ended, and asks for it again behind all the others."""
    asked = requests(groups=2, members=3)
    worth = {request.id: float(request.id[-1]) for request in asked}
    for claim in claimed(database, asked)[::3]:
        end(database, claim.attempt, worth[claim.request.id])
    with database.begin() as connection:
        database.withdraw(connection, "step-", "step-000000", 3.0)
    for claim in claimed(database, asked, "again"):
        end(database, claim.attempt, worth[claim.request.id])

    found = rows(database, "preferences", TransitionsSection())
    assert [(row["group"], row["chosen_rollout_id"], row["rejected_rollout_id"]) for row in found] == [
        (f"step-000000/{g}", f"step-000000/{g}/2", f"step-000000/{g}/0") for g in range(2)
    ]
    [best] = rows(database, "preferences", TransitionsSection(), max_reward=1.0, task="t1")
    assert best["chosen_rollout_id"] == "step-000000/1/1", "what the search leaves out is not compared"


def test_what_broke_around_an_agent_is_exported_with_what_it_was_given_as_it_is_not_trained(
    database: Database,
) -> None:
    """``failed_reward`` is for what failed by the model's doing alone."""
    raised = {"step-000000/0/0": "builtins.ValueError", "step-000000/0/1": "openai.APIConnectionError"}
    for claim in claimed(database, requests(groups=1, members=3)):
        end(database, claim.attempt, 0.25, raised.get(claim.request.id))
    found = rows(database, "transitions", TransitionsSection(failed_reward=-1.0))
    assert [(row["reward"], row["return"]) for row in found] == [(-1.0, -1.0), (0.25, 0.25), (0.25, 0.25)]


def test_what_a_call_earned_as_a_whole_is_exported_with_each_of_its_choices(database: Database) -> None:
    """A reward that names none of them would else be in the return alone."""
    for claim, choices in zip(claimed(database, requests(groups=1, members=2)), (1, 2), strict=True):
        end(database, claim.attempt, 0.25, choices=choices)
    found = rows(database, "transitions", TransitionsSection())
    assert [(row["reward"], row["call_reward"], row["return"]) for row in found] == [
        (0.25, 0.0, 0.25),
        *[(0.0, 0.25, 0.25)] * 2,
    ]


@pytest.mark.parametrize(
    ("search", "members"),
    [
        ({}, "012"),
        ({"min_reward": 1.0}, "12"),
        ({"max_reward": 1.0, "status": RolloutStatus.SUCCEEDED}, "1"),
        ({"error": "valueerror"}, "0"),
        ({"agent": "solv*"}, "012"),
        ({"agent": "critic"}, ""),
    ],
)
def test_every_table_is_of_the_rollouts_that_the_search_asks_for(
    database: Database, search: dict[str, Any], members: str
) -> None:
    """Also where that takes their rewards, errors or agents; of spans, all of theirs."""
    for claim in claimed(database, requests(groups=1, members=3)):
        member = int(claim.request.id[-1])
        end(database, claim.attempt, float(member), None if member else "ValueError")
    for what in ("rollouts", "spans", "transitions", "conversations"):
        found = rows(database, what, TransitionsSection(), **search)
        told = [f"step-000000/0/{m}" for m in members for _ in range(2 if what == "spans" else 1)]
        assert [row["rollout_id"] for row in found] == told, what
