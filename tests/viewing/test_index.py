"""The rollouts of a run in memory: what fits, in which order, as they are recorded; on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from al_ray.database.listing import Listing
from al_ray.database.writer import Ask, Database
from al_ray.rollouts.reading.search import Order
from al_ray.traces import semconv
from al_ray.types import Attempt, AttemptStatus, RolloutRequest, RolloutStatus, Span, SpanKind, Task
from al_ray.viewing import index as index_module
from al_ray.viewing.index import Index, Wanted
from tests.support.runs.recorded import record


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    """With what ``record`` writes: rollouts 0 to 8 have ended, 9 waits."""
    database = Database(store_url)
    record(database, 0, 9)
    yield database
    database.close()


@pytest.fixture
def index(database: Database, store_url: str) -> Index:
    return look(Index(Listing(store_url), "reward"))


def look(index: Index) -> Index:
    """Read what is new, however lately it was read."""
    index._read_at = float("-inf")
    index.refresh()
    return index


def ids(index: Index, **wanted: Any) -> str:
    """Of those found, without the letter that all begin with."""
    return " ".join(entry.brief.id[1:] for entry in index.find(Wanted(**wanted)).entries)


def reward(attempt: Attempt, value: float, number: int = 0) -> Span:
    name = attempt.rollout_id
    id = f"{name}/{attempt.number}/{number}"
    return Span(id, name, attempt.number, SpanKind.REWARD, "reward", 1.0, 1.0, {semconv.REWARD: value})


@pytest.mark.parametrize(
    "wanted, found",
    [
        ({}, "9 8 7 6 5 4 3 2 1 0"),
        ({"ascending": True}, "0 1 2 3 4 5 6 7 8 9"),
        ({"batch": "eval"}, "9 7 5 3 1"),
        ({"mode": "train", "status": RolloutStatus.SUCCEEDED}, "6 4 0"),
        ({"task": "t4"}, "4"),
        ({"group": "g4"}, "4"),
        ({"min_reward": 0.3, "max_reward": 0.6}, "6 4 3"),
        ({"error": "valueerror: 5"}, "5"),
        ({"text": "4 + 4?"}, "4"),
        ({"text": "ODD"}, "7 5 3 1"),
        ({"order": Order.REWARD}, "7 6 4 3 1 0 9 8 5 2"),
        ({"order": Order.REWARD, "ascending": True}, "0 1 3 4 6 7 2 5 8 9"),
        ({"order": Order.SECONDS, "batch": "step"}, "8 6 4 2 0"),
        ({"limit": 4, "page": 2}, "5 4 3 2"),
    ],
)
def test_those_that_fit_are_found_in_order(index: Index, wanted: dict[str, Any], found: str) -> None:
    """Of the odd ones, 9 waits and has no call whose agent would be called so."""
    assert ids(index, **wanted) == found


def test_a_page_tells_whether_there_are_more(index: Index) -> None:
    assert [index.find(Wanted(limit=4, page=page)).more for page in (1, 2, 3)] == [True, True, False]
    assert index.find(Wanted(text="?", limit=3)).more


def test_a_search_that_takes_too_long_says_how_far_it_came(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "_CHUNK", 2)
    monkeypatch.setattr(index_module, "_PATIENCE", 0.0)
    found = index.find(Wanted(text="nobody says this"))
    assert (found.entries, found.looked_at, found.unlooked) == ([], 0, 10)


def test_what_happens_later_is_seen(index: Index, database: Database) -> None:
    """A rollout that waits is played, is lost, tried again and rewarded; only the last try's counts."""
    with database.begin() as connection:
        ((claim,),) = database.claim(connection, [Ask("w", "later", 1)], 200.0, 30.0, 230.0)
    look(index)
    assert [entry.brief.id for entry in index.under_way()] == ["r9"]
    assert index.under_way()[0].brief.worker == "w"
    reward = Span("r9/a", "r9", 1, SpanKind.REWARD, "reward", 1.0, 1.0, {semconv.REWARD: 5.0})
    with database.begin() as connection:
        database.append(connection, [[reward]])
        database.expire(connection, 240.0, 240.0)
        ((claim,),) = database.claim(connection, [Ask("w", "again", 1)], 250.0, 30.0, 280.0)
    look(index)
    entry = index.by_id["r9"]
    assert entry.brief.attempts == 2 and index.value(entry) is None
    with database.begin() as connection:
        given = {semconv.REWARD: 0.25}
        spans = [Span(f"r9/{name}", "r9", 2, SpanKind.REWARD, "reward", 1.0, 1.0, given) for name in "bc"]
        done = claim.attempt.__class__("r9", 2, claim.attempt.key, AttemptStatus.SUCCEEDED, ended_at=251.0)
        database.finish(connection, [(done, spans)])
    look(index)
    assert index.value(entry) == 0.5, "rewards of a rollout add up"
    assert entry.brief.status is RolloutStatus.SUCCEEDED and entry.brief.seconds == 1.0
    assert not index.under_way()


def test_what_is_withdrawn_leaves_and_what_comes_anew_is_seen_wherever_it_is(
    index: Index, database: Database
) -> None:
    """A run is gone on with while somebody looks: others come first, in the places of what was withdrawn,
    then that again, and all end, whatever was looked at between."""
    ahead = [RolloutRequest(f"r{number}", "later", "g", Task("t", {}), "train") for number in range(10, 14)]
    others = [RolloutRequest(f"r{number}", "others", "g", Task("t", {}), "eval") for number in (20, 21)]

    def play(limit: int, name: str, *, ends: bool) -> None:
        with database.begin() as connection:
            (claims,) = database.claim(connection, [Ask("w", name, limit)], 200.0, 30.0, 230.0)
            attempts = [claim.attempt for claim in claims]
            database.append(connection, [[reward(attempt, 0.5)] for attempt in attempts])
            if ends:
                done = [replace(each, status=AttemptStatus.SUCCEEDED, ended_at=201.0) for each in attempts]
                database.finish(connection, [(attempt, ()) for attempt in done])

    def as_stored() -> None:
        look(index)
        stored = [id[1:] for id in database.rollout_ids()]
        assert ids(index, ascending=True) == " ".join(stored)
        assert index.by_id.keys() == {f"r{id}" for id in stored}
        assert sum(map(len, index.by_group.values())) == sum(map(len, index.by_task.values())) == len(stored)

    for time in ("first", "second"):
        with database.begin() as connection:
            database.enqueue(connection, ahead)
        play(3, f"{time}, too early", ends=False)
        as_stored()
        with database.begin() as connection:
            database.withdraw(connection, "", "a", 202.0)
        if time == "second":
            as_stored()
        with database.begin() as connection:
            database.enqueue(connection, [*others, *ahead[::-1]])
        play(1, f"{time}, in time", ends=True)
        as_stored()
    play(9, "the rest", ends=True)
    as_stored()
    assert not index.under_way()
    assert index.counts("later") == {RolloutStatus.SUCCEEDED: 4}
    assert all(index.value(index.by_id[each.id]) == 0.5 for each in (*ahead, *others))


def test_what_comes_in_a_gap_is_seen(index: Index, database: Database) -> None:
    """What was withdrawn left it below another, which then was withdrawn too and came back to its place."""
    early, late, other = (
        RolloutRequest(name, batch, "g", Task("t", {}), "train")
        for name, batch in (("r11", "x-2"), ("r12", "x-1"), ("r13", "x-0"))
    )
    with database.begin() as connection:
        database.enqueue(connection, [early])
        database.enqueue(connection, [late])
        database.withdraw(connection, "x", "x-2", 202.0)
    assert ids(look(index), limit=2) == "12 9"
    with database.begin() as connection:
        database.withdraw(connection, "x", "x-1", 202.0)
        database.enqueue(connection, [other])
        database.enqueue(connection, [late])
    assert ids(look(index), limit=3) == "12 13 9"


def test_a_reward_of_what_was_withdrawn_is_passed_over(
    index: Index, database: Database, store_url: str
) -> None:
    """Whoever begins to look then sees what there is, and sees it once it is asked for again."""
    with database.begin() as connection:
        ((claim,),) = database.claim(connection, [Ask("w", "early", 1)], 200.0, 30.0, 230.0)
        database.append(connection, [[reward(claim.attempt, 0.5)]])
        database.withdraw(connection, "", "a", 202.0)
    late = Index(Listing(store_url), "reward")
    for each in (index, late):
        assert ids(look(each), ascending=True) == "0 1 2 3 4 5 6 7 8"
    with database.begin() as connection:
        database.enqueue(connection, [claim.request])
    for each in (index, late):
        assert ids(look(each), limit=1) == "9"


def test_rewards_are_added_without_an_error_of_rounding(index: Index, database: Database) -> None:
    """As everywhere else: ten times 0.1 is 1, and found as such."""
    with database.begin() as connection:
        ((claim,),) = database.claim(connection, [Ask("w", "tenths", 1)], 200.0, 30.0, 230.0)
        tenths = [reward(claim.attempt, 0.1, number) for number in range(10)]
        database.finish(connection, [(replace(claim.attempt, status=AttemptStatus.SUCCEEDED), tenths)])
    assert index.value(look(index).by_id["r9"]) == 1.0
    assert ids(index, min_reward=1.0) == "9"


def test_nothing_can_be_written_by_whoever_looks(index: Index, new_store_url: Callable[[], str]) -> None:
    with pytest.raises(Exception, match=r"readonly|read-only"), index.listing._engine.begin() as connection:
        connection.exec_driver_sql("create table mine (x integer)")
