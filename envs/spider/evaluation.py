"""Execution match: whether two queries give the same on every database of a schema.

The semantics are those of the official evaluator of Spider, ``eval_exec_match`` of
https://github.com/taoyds/test-suite-sql-eval with its defaults (Zhong, Yu and Klein, "Semantic Evaluation
for Text-to-SQL with Distilled Test Suites", EMNLP 2020). README.md says where ours departs and why.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from al_ray.envs.spider import execution
from al_ray.envs.spider.execution import QueryError
from al_ray.envs.spider.sql_text import first_statement, without_distinct
from al_ray.errors import DataError, Problem

Row = tuple[Any, ...]

_THIS_YEAR = re.compile(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)\s*", re.IGNORECASE)
_SPLIT_OPERATORS = {"> =": ">=", "< =": "<=", "! =": "!="}


class Verdict(StrEnum):
    """What became of a predicted query."""

    SAME = "same"
    OTHER = "other"
    """It gives something else than the gold query, on one of the databases."""
    FAILED = "failed"
    """It gives nothing, on one of the databases."""


def judge(database: Path, predicted: str, gold: str) -> Verdict:
    """Compare what the queries give on ``database`` and on all databases that lie beside it, up to the
    first where that is not the same.

    Raises ``DataError`` where ``database`` cannot be seen from here, or the gold query gives nothing to
    compare with.
    """
    databases = sorted(database.parent.glob("*.sqlite"))
    if database not in databases:
        cure = "no such file can be seen from here; a runner needs the folder of databases where it works"
        raise DataError(Problem("the task's database", str(database), cure))
    predicted, gold = normalized(predicted), normalized(gold)
    ordered = "order by" in gold.lower()
    for each in databases:
        verdict = _verdict_on(each, predicted, gold, ordered)
        if verdict is not Verdict.SAME:
            return verdict
    return Verdict.SAME


def normalized(query: str) -> str:
    """What is executed in place of the query: its first statement, without DISTINCT, with operators that a
    tokenizer split put together, and in which the current year is 2020, as when Spider was made."""
    for split, operator in _SPLIT_OPERATORS.items():
        query = query.replace(split, operator)
    return _THIS_YEAR.sub("2020", without_distinct(first_statement(query)))


def same_rows(gold: Sequence[Row], predicted: Sequence[Row], ordered: bool) -> bool:
    """Whether the rows are the same, as a list if ``ordered`` and else as a bag, after some permutation of
    the columns. Values are compared as Python does: ``1 == 1.0 != "1"``."""
    if not gold and not predicted:
        return True
    if len(gold) != len(predicted) or len(gold[0]) != len(predicted[0]):
        return False
    if not _alike(gold, predicted, ordered):
        return False
    if ordered:
        return Counter(zip(*gold, strict=True)) == Counter(zip(*predicted, strict=True))
    return _permutable(gold, predicted)


def _verdict_on(database: Path, predicted: str, gold: str, ordered: bool) -> Verdict:
    try:
        expected = execution.run(database, gold).rows
    except QueryError as error:
        cure = f"a gold query must run on {database}, but: {error}"
        raise DataError(Problem("the task's query", gold, cure)) from error
    try:
        found = execution.run(database, predicted, rows=len(expected))
    except QueryError:
        return Verdict.FAILED
    same = found.complete and same_rows(expected, found.rows, ordered)
    return Verdict.SAME if same else Verdict.OTHER


def _alike(gold: Sequence[Row], predicted: Sequence[Row], ordered: bool) -> bool:
    """Whether the rows agree when the values of each are sorted by text and type.

    Rows that are permutations of each other do, with one exception that the official evaluator makes and
    so do we: a whole number beside the equal real one may sort differently.
    """
    rows = [[tuple(sorted(row, key=_text_and_type)) for row in table] for table in (gold, predicted)]
    return rows[0] == rows[1] if ordered else set(rows[0]) == set(rows[1])


def _text_and_type(value: Any) -> str:
    return f"{value}{type(value)}"


def _permutable(gold: Sequence[Row], predicted: Sequence[Row]) -> bool:
    """Whether some permutation of the columns makes the bags of rows equal.

    Columns are placed one by one; what is placed must give equal bags already.
    """
    width = len(gold[0])
    prefixes = [Counter(row[:length] for row in gold) for length in range(width + 1)]

    def place(placed: tuple[int, ...]) -> bool:
        if Counter(tuple(row[column] for column in placed) for row in predicted) != prefixes[len(placed)]:
            return False
        if len(placed) == width:
            return True
        return any(place((*placed, column)) for column in range(width) if column not in placed)

    return place(())
