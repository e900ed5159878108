"""Rollouts are found by what is known of them, in any order, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from al_ray.database.backends import sqlite_url
from al_ray.database.writer import Database
from al_ray.rollouts.reading import search
from al_ray.rollouts.reading.search import Order, Search
from al_ray.types import Rollout, RolloutStatus
from tests.support.runs.recorded import record


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Rollouts 0 to 8 have ended, 2, 5 and 8 of them badly; 9 waits."""
    database = Database(sqlite_url(tmp_path_factory.mktemp("search") / "store.sqlite"))
    record(database, 0, 9)
    yield database
    database.close()


def _ids(database: Database, **conditions: Any) -> list[str]:
    return [rollout.id for rollout in search.matching(database, Search(**conditions))]


@pytest.mark.parametrize(
    ("conditions", "numbers"),
    [
        ({}, range(10)),
        ({"status": RolloutStatus.FAILED}, [2, 5, 8]),
        ({"mode": "eval", "status": RolloutStatus.SUCCEEDED}, [1, 3, 7]),
        ({"batch": "eval"}, [1, 3, 5, 7, 9]),
        ({"task": "t4"}, [4]),
        ({"min_reward": 0.4}, [4, 6, 7]),
        ({"min_reward": 0.1, "max_reward": 0.4}, [1, 3, 4]),
        ({"max_reward": 0.3, "dimension": "double"}, [0, 1]),
        ({"error": "VALUEerror: 5"}, [5]),
        ({"agent": "ev*"}, [0, 2, 4, 6, 8]),
        ({"agent": "ev*", "min_reward": 0.3}, [4, 6]),
    ],
)
def test_every_condition_must_hold(
    database: Database, conditions: dict[str, Any], numbers: list[int]
) -> None:
    assert _ids(database, **conditions) == [f"r{number}" for number in numbers]


def _page(database: Database, order: Order, page: int, *, reverse: bool = False) -> Sequence[Rollout]:
    return search.last(database, Search(), order, reverse=reverse, limit=4, page=page)


def test_pages_go_back_from_the_end_and_tell_whether_there_are_more(database: Database) -> None:
    """Whoever looks at a run wants to see what came last; one more than asked for means more."""
    pages = [[rollout.id for rollout in _page(database, Order.ASKED, page)] for page in (1, 2, 3, 4)]
    assert pages == [["r5", "r6", "r7", "r8", "r9"], ["r1", "r2", "r3", "r4", "r5"], ["r0", "r1"], []]


@pytest.mark.parametrize(
    ("order", "reverse", "shown"),
    [
        (Order.ASKED, True, [3, 2, 1, 0]),
        (Order.REWARD, False, [3, 4, 6, 7]),
        (Order.SECONDS, False, [5, 6, 7, 8]),
        (Order.SECONDS, True, [3, 2, 1, 0]),
        (Order.ATTEMPTS, True, [2, 1, 0, 9]),
    ],
)
def test_the_end_of_an_order_is_what_has_most_or_in_reverse_least_of_it(
    database: Database, order: Order, reverse: bool, shown: list[int]
) -> None:
    """What has not ended has the least."""
    found = _page(database, order, 1, reverse=reverse)[-4:]
    assert [rollout.id for rollout in found] == [f"r{number}" for number in shown]


def test_what_ends_from_now_on_is_told_once_as_it_ends(tmp_path: Path) -> None:
    """Of what fits: neither what had ended before, nor what waits, nor what is asked for otherwise."""
    database = Database(sqlite_url(tmp_path / "followed.sqlite"))
    record(database, 0, 3)
    looks = iter([lambda: record(database, 3, 6), lambda: None, lambda: record(database, 6, 9)])

    def wait() -> None:
        look = next(looks, None)
        if look is None:
            raise KeyboardInterrupt
        look()

    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        for rollout in search.ended(database, Search(batch="step", max_reward=0.5), wait):
            told.append(rollout.id)
    database.close()
    assert told == ["r4"], "the odd are of evaluations, r6 has more, and r8 failed"
