"""The rollouts of a run in memory: what fits, in which order, as they are recorded; on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from al_ray.database.listing import Listing
from al_ray.database.writer import Ask, Database
from al_ray.rollouts.reading.search import Order
from al_ray.traces import semconv
from al_ray.types import AttemptStatus, RolloutStatus, Span, SpanKind
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


def test_nothing_can_be_written_by_whoever_looks(index: Index, new_store_url: Callable[[], str]) -> None:
    with pytest.raises(Exception, match=r"readonly|read-only"), index.listing._engine.begin() as connection:
        connection.exec_driver_sql("create table mine (x integer)")
