"""A query gives the records it asks for, in its order and a page at a time, on every database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from al_ray.database.backends import postgresql_url, sqlite_url
from al_ray.database.query import Condition, Item, Page, Query
from al_ray.database.writer import Ask, Database
from al_ray.errors import UserError
from al_ray.types import Attempt, AttemptStatus, RetryRules, RolloutRequest, Span, SpanKind, Task

ROLLOUTS = 9


def record(database: Database) -> None:
    """Nine rollouts, every third of which failed twice before it succeeded; two spans an attempt."""
    with database.begin() as connection:
        for index in range(ROLLOUTS):
            batch = ("eval/1", "EVAL/2", "eval_3")[index % 3]
            task = Task(f"t{index}", {"n": index})
            request = RolloutRequest(f"r{ROLLOUTS - index}", batch, "g", task, retry=RetryRules(3))
            database.enqueue(connection, [request])
            for number in range(1, 4 if index % 3 == 0 else 2):
                now = float(index * 10 + number)
                ask = Ask(f"w{index % 2}", f"{index} {number}", 1)
                ((claim,),) = database.claim(connection, [ask], now, 30.0, now + 30.0)
                kinds = (SpanKind.CALL, SpanKind.REWARD)
                database.append(connection, [[_span(claim.attempt, kind) for kind in kinds]])
                failed = index % 3 == 0 and number < 3
                database.finish(connection, [(_ended(claim.attempt, failed, now + 1), ())])


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """To be read only: one for all tests, of each kind."""
    url = sqlite_url(tmp_path_factory.mktemp("query") / "store.sqlite")
    if request.param == "postgresql":
        url = postgresql_url(request.getfixturevalue("postgresql"), "test_query")
    database = Database(url)
    record(database)
    yield database
    database.close()


def _span(attempt: Attempt, kind: SpanKind) -> Span:
    name = f"{attempt.rollout_id} {attempt.number} {kind}"
    return Span(name, attempt.rollout_id, attempt.number, kind, kind.upper(), 1.0, 2.0, {})


def _ended(attempt: Attempt, failed: bool, now: float) -> Attempt:
    return Attempt(
        attempt.rollout_id,
        attempt.number,
        attempt.key,
        AttemptStatus.FAILED if failed else AttemptStatus.SUCCEEDED,
        ended_at=now,
        error="50% of Tools" if failed else None,
        error_class="openai.APIError" if failed else None,
    )


def all_pages(find: Callable[[Query], Page[Item]], query: Query) -> list[Item]:
    found: list[Item] = []
    following: Query | None = query
    while following is not None:
        page = find(following)
        assert len(page.items) <= (query.limit or 10**6)
        found += page.items
        following = page.next
    return found


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", [None, "batch", "error", "ended_at", "worker"])
def test_pages_of_any_size_are_the_whole_in_its_order(
    database: Database, sort: str | None, descending: bool
) -> None:
    whole = database.find_attempts(Query(sort=sort, descending=descending)).items
    assert len(whole) == 15
    for limit in (1, 2, 7, 15, 16):
        query = Query(sort=sort, descending=descending, limit=limit)
        assert all_pages(database.find_attempts, query) == whole


def test_records_come_in_the_order_in_which_their_rollouts_were_asked_for(database: Database) -> None:
    ids = [f"r{ROLLOUTS - index}" for index in range(ROLLOUTS)]
    assert [rollout.id for rollout in database.find_rollouts(Query()).items] == ids
    attempts = database.find_attempts(Query()).items
    assert [(a.rollout_id, a.number) for a in attempts[:4]] == [("r9", 1), ("r9", 2), ("r9", 3), ("r8", 1)]
    spans = database.find_spans(Query(limit=3)).items
    assert [s.id for s in spans] == ["r9 1 call", "r9 1 reward", "r9 2 call"]
    newest = database.find_rollouts(Query(descending=True, limit=2)).items
    assert [rollout.id for rollout in newest] == ["r1", "r2"]


def test_sorting_is_by_code_point_and_what_has_no_value_comes_first(database: Database) -> None:
    batches = [r.request.batch for r in database.find_rollouts(Query(sort="batch")).items]
    assert batches == ["EVAL/2"] * 3 + ["eval/1"] * 3 + ["eval_3"] * 3
    errors = [a.error for a in database.find_attempts(Query(sort="error")).items]
    assert errors == [None] * 9 + ["50% of Tools"] * 6


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        (Condition("status", "=", "failed"), 6),
        (Condition("status", "in", ["failed", "cancelled"]), 6),
        (Condition("status", "in", []), 0),
        (Condition("error", "=", None), 9),
        (Condition("error", "!=", None), 6),
        (Condition("error_class", "!=", "openai.APIError"), 9),
        (Condition("error", "prefix", "50% of"), 6),
        (Condition("batch", "prefix", "eval"), 12),
        (Condition("batch", "prefix", "eval_"), 3),
        (Condition("started_at", ">=", 62), 4),
        (Condition("started_at", "<", 1.5), 1),
        (Condition("number", ">", 1), 6),
        (Condition("worker", "=", "w1"), 6),
        (Condition("task_id", "<=", "t1"), 4),
    ],
    ids=lambda value: str(value.value) if isinstance(value, Condition) else None,
)
def test_attempts_are_found_by_what_they_and_their_rollouts_are(
    database: Database, condition: Condition, count: int
) -> None:
    assert len(database.find_attempts(Query([condition])).items) == count


def test_all_conditions_hold_at_once_and_spans_are_found_too(database: Database) -> None:
    query = Query([Condition("batch", "=", "eval/1"), Condition("kind", "=", "reward")], limit=4)
    spans = all_pages(database.find_spans, query)
    assert {span.kind for span in spans} == {SpanKind.REWARD}
    assert len(spans) == 9, "of all attempts"
    (rollout,) = database.find_rollouts(Query([Condition("id", "=", "r9")]), [SpanKind.REWARD]).items
    assert [span.id for span in rollout.spans] == ["r9 3 reward"], "of the last attempt"


def test_what_is_added_while_pages_are_turned_neither_repeats_nor_hides_anything(store_url: str) -> None:
    database = Database(store_url)
    record(database)
    page = database.find_rollouts(Query(sort="batch", limit=4))
    with database.begin() as connection:
        database.enqueue(connection, [RolloutRequest("new", "A", "g", Task("t", {}))])
    assert page.next is not None
    ids = [r.id for r in (*page.items, *all_pages(database.find_rollouts, page.next))]
    assert sorted(ids) == [f"r{index + 1}" for index in range(ROLLOUTS)]
    database.close()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (
            Query([Condition("reward", "=", 1)]),
            "query.where: 'reward': attempts have the fields batch",
        ),
        (Query(sort="key"), "query.sort: 'key': attempts have the fields"),
        (
            Query([Condition("status", "=", "lost")]),
            "query.where status =: 'lost': one of preparing",
        ),
        (Query([Condition("status", "~", "x")]), "query.where: '~': the operators are = !="),  # type: ignore[arg-type]
        (Query([Condition("number", "=", "one")]), "query.where number =: 'one': number is a number"),
        (Query([Condition("worker", "=", 1)]), "query.where worker =: 1: worker is text"),
        (Query([Condition("worker", "<", None)]), "worker is text"),
        (Query([Condition("worker", "in", "w1")]), "query.where worker in: 'w1': a list"),
        (Query([Condition("number", "prefix", "1")]), "number is a number; compare it"),
        (
            Query([Condition("batch", "prefix", "a\udcff")]),
            r"batch prefix: 'a\\udcff': text without NUL and",
        ),
        (Query([Condition("task_id", "in", ["t", "a\0"])]), r"where task_id in: 'a\\x00': text without NUL"),
        (
            Query([Condition("number", "=", 2**40)]),
            "number =: 1099511627776: a number between -2147483648",
        ),
        (Query([Condition("started_at", "<", 2**70)]), "a number between -9223372036854775808 and"),
        (Query([Condition("ended_at", ">", float("nan"))]), "where ended_at >: nan: a number between"),
        (Query(limit=0), "query.limit: 0: at least 1"),
        (Query(after=["x"]), r"query.after: \['x'\]: take it from Page.next"),
    ],
)
def test_what_cannot_be_asked_is_told_with_the_cure(database: Database, query: Query, told: str) -> None:
    with pytest.raises(UserError, match=told):
        database.find_attempts(query)
