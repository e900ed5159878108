"""Execution match: the official evaluator's semantics in their corners, on results and on databases."""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.envs.spider.evaluation import Verdict, judge, normalized, same_rows
from al_ray.envs.spider.reward import score
from al_ray.errors import DataError
from al_ray.types import Task, TaskSet
from tests.envs.spider.attacks import COUNT
from tests.envs.spider.conftest import HARBOUR

Rows = Sequence[tuple[Any, ...]]
VALUES = st.sampled_from([0, 1, 2, "a", "1", None])
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.tuples(*[VALUES] * width), min_size=1, max_size=4)
)


@pytest.mark.parametrize(
    ("gold", "predicted", "bag", "ordered"),
    [
        ([(1,), (2,)], [(2,), (1,)], True, False),
        ([(1, "a"), (2, "b")], [("a", 1), ("b", 2)], True, True),
        ([(1, 2), (2, 1)], [(2, 1), (1, 2)], True, True),  # the columns changed places, not the rows
        ([(1, 2), (3, 4)], [(1, 2), (4, 3)], False, False),  # one permutation for all rows
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False, False),  # a bag, not a set
        ([(1,), (1,)], [(1,)], False, False),
        ([(1,)], [(1.0,)], True, True),
        ([(1,)], [("1",)], False, False),
        ([(None,)], [(0,)], False, False),
        ([], [], True, True),
        ([], [(None,)], False, False),
        ([(1, 1)], [(1,)], False, False),
        ([(1, 10)], [(1.0, 10)], False, False),  # the official evaluator's own oddity
    ],
)
def test_rows_are_compared_as_bags_or_in_order(gold: Rows, predicted: Rows, bag: bool, ordered: bool) -> None:
    """Under some permutation of the columns, with Python's equality."""
    assert same_rows(gold, predicted, False) is bag
    assert same_rows(gold, predicted, True) is ordered


@settings(max_examples=200, deadline=None)
@given(TABLES, st.randoms(use_true_random=False), st.booleans(), st.booleans())
def test_the_search_for_a_permutation_finds_one_if_there_is_any(
    gold: list[tuple[Any, ...]], chance: Any, changed: bool, ordered: bool
) -> None:
    """Against all permutations tried, on rows shuffled and columns permuted, with a value changed or not."""
    columns = chance.sample(range(len(gold[0])), len(gold[0]))
    predicted = [tuple(row[column] for column in columns) for row in gold]
    if not ordered:
        chance.shuffle(predicted)
    if changed:
        place = chance.randrange(len(predicted))
        predicted[place] = (chance.choice([0, 1, "a"]), *predicted[place][1:])
    permuted = (
        [tuple(row[column] for column in permutation) for row in predicted]
        for permutation in itertools.permutations(range(len(columns)))
    )
    expected = any(rows == gold if ordered else Counter(rows) == Counter(gold) for rows in permuted)
    assert same_rows(gold, predicted, ordered) is expected


def test_a_query_is_normalized_as_the_official_evaluator_does_it() -> None:
    """First statement, no DISTINCT outside of quotes, operators put together, the year of 2020."""
    query = (
        "SELECT count(DISTINCT a) FROM t WHERE b > = 2 AND c ! = 'distinct' AND d = YEAR(CURDATE()) ; DROP"
    )
    assert normalized(query) == "SELECT count( a) FROM t WHERE b >= 2 AND c != 'distinct' AND d = 2020;"
    assert normalized("select 'a;b' -- ;\n; x") == "select 'a;b' -- ;\n;"


@pytest.mark.parametrize(
    ("gold", "predicted", "verdict"),
    [
        ("SELECT name, flag FROM ship", "SELECT flag, name FROM ship ORDER BY length", Verdict.SAME),
        ("SELECT name FROM ship ORDER BY length", "SELECT name FROM ship ORDER BY name", Verdict.OTHER),
        ("SELECT name FROM ship order  by length", "SELECT name FROM ship", Verdict.SAME),  # two spaces
        ("SELECT DISTINCT flag FROM ship", "SELECT flag FROM ship", Verdict.SAME),
        ("SELECT name FROM ship WHERE flag = 'Peru'", "SELECT 1, 2 WHERE 0", Verdict.SAME),
        ("SELECT name FROM ship WHERE flag = 'Peru'", "", Verdict.FAILED),
        ("SELECT name FROM ship", "SELECT nom FROM ship", Verdict.FAILED),
        ("SELECT name FROM ship", "DROP TABLE ship", Verdict.FAILED),
        ("SELECT count(*) FROM ship", "SELECT 7; DROP TABLE ship", Verdict.SAME),
        ("SELECT count(*) FROM ship", f"{COUNT} SELECT x FROM c", Verdict.OTHER),
    ],
)
def test_queries_are_judged_by_what_they_give(gold: str, predicted: str, verdict: Verdict) -> None:
    """Order counts where the gold query says ORDER BY with one space; DISTINCT never does."""
    assert judge(HARBOUR, predicted, gold) is verdict


@pytest.mark.parametrize(
    "nothing", ["", " \n", ";", "-- x", "/* */", "/*", "; SELECT 1", "DISTINCT", "DROP TABLE IF EXISTS wharf"]
)
def test_what_asks_for_nothing_fails_also_where_nothing_is_right(nothing: str) -> None:
    assert judge(HARBOUR, nothing, "SELECT name FROM ship WHERE flag = 'Peru'") is Verdict.FAILED


def test_all_databases_of_a_schema_count(tmp_path: Path) -> None:
    """What is right by chance on one database is wrong on another, as in the test suites."""
    for name, ships in (("suite", ["Alma"]), ("suite_v1", ["Alma", "Dagny"])):
        with closing(sqlite3.connect(tmp_path / f"{name}.sqlite")) as connection, connection:
            connection.execute("CREATE TABLE ship (name TEXT)")
            connection.executemany("INSERT INTO ship VALUES (?)", [(ship,) for ship in ships])
    database = tmp_path / "suite.sqlite"
    assert judge(database, "SELECT 1", "SELECT count(*) FROM ship") is Verdict.OTHER
    assert judge(database, "SELECT count(name) FROM ship", "SELECT count(*) FROM ship") is Verdict.SAME


def test_a_gold_query_that_does_not_run_is_a_data_error() -> None:
    """Never a reward of 0: the official evaluator stops there too."""
    with pytest.raises(DataError, match=r"'SELECT nom FROM ship'.*no such column: nom"):
        judge(HARBOUR, "SELECT 1", "SELECT nom FROM ship")


@pytest.mark.parametrize("there", [[], ["suite_v1.sqlite"]])
def test_no_answer_is_worth_anything_where_the_database_cannot_be_seen(
    tmp_path: Path, there: list[str]
) -> None:
    """On a node without the data, say: there an attempt fails, whatever its answer, and what lies beside."""
    for name in there:
        (tmp_path / name).write_bytes(HARBOUR.read_bytes())
    task = {"database": str(tmp_path / "suite.sqlite"), "query": "SELECT count(*) FROM ship"}
    with pytest.raises(DataError, match=r"the task's database: '.*/suite\.sqlite': no such file can be seen"):
        score(task, "SELECT count(*) FROM ship")


def test_the_reward_is_the_match_and_tells_whether_the_query_runs() -> None:
    """Right, wrong and broken."""
    task = {"database": str(HARBOUR), "query": "SELECT count(*) FROM ship"}
    assert score(task, "SELECT 7") == {"reward": 1.0, "executes": 1.0}
    assert score(task, "SELECT 8") == {"reward": 0.0, "executes": 1.0}
    assert score(task, "how many?") == {"reward": 0.0, "executes": 0.0}


def test_every_gold_answer_of_the_samples_is_worth_one(sample_tasks: Sequence[Task]) -> None:
    """And that of any other question on the same database is worth what it gives, mostly nothing."""
    assert [score(task.data, task.data["query"]) for task in sample_tasks] == [
        {"reward": 1.0, "executes": 1.0}
    ] * len(sample_tasks)
    pairs = [(a.data, b.data["query"]) for a, b in itertools.pairwise(sample_tasks[:64])]
    rewards = [score(task, other)["reward"] for task, other in pairs]
    assert sum(rewards) < 0.1 * len(rewards)


def test_gold_answers_of_real_rows_are_worth_one(real_train: TaskSet) -> None:
    """A row in ten; ``tools/spider_agreement.py`` compares all that the official evaluator accepts."""
    rewards = [score(task.data, task.data["query"])["reward"] for task in real_train.tasks[::10]]
    assert rewards == [1.0] * len(rewards)
