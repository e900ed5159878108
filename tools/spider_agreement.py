"""Compares Spider's execution match and hardness with the official evaluator's, on pairs made of real rows.

    git clone https://github.com/taoyds/test-suite-sql-eval OFFICIAL
    pip install nltk sqlparse tqdm
    python tools/spider_agreement.py OFFICIAL SPIDER --pairs 4000

``SPIDER`` is a folder as ``envs/spider/data.py`` reads it. Its databases are copied first, since the
official evaluator opens them writable. Prints a table by kind of prediction, and every disagreement.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import random
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from al_ray.envs.spider import data, predictions
from al_ray.envs.spider.evaluation import Verdict, judge
from al_ray.envs.spider.hardness import hardness
from al_ray.types import Task

OFFICIAL_SECONDS = 60
"""The official evaluator has this limit, but its way of keeping it stops no query."""

Change = Callable[[str, random.Random], str]


_COLUMN = r"([\w.]+|\w+\([\w.* ]+\))"
_FIRST_COLUMN = rf"(?i)^(select(?: distinct)?\s+){_COLUMN}"
_NEXT = r"(?=\s*,|\s+from)"


def swapped_columns(query: str, _: random.Random) -> str:
    """The first two columns, where both are plain."""
    return re.sub(rf"{_FIRST_COLUMN}\s*,\s*{_COLUMN}{_NEXT}", r"\1\3, \2", query)


def without_order(query: str, _: random.Random) -> str:
    return re.sub(r"(?i)\border\s+by\s+[^()]*?(?=\blimit\b|$)", "", query)


def other_order(query: str, _: random.Random) -> str:
    if re.search(r"(?i)\bdesc\b", query):
        return re.sub(r"(?i)\bdesc\b", "ASC", query)
    return re.sub(r"(?i)(\border\s+by\s+[\w.]+)(\s+asc\b)?", r"\1 DESC", query)


def other_constant(query: str, chance: random.Random) -> str:
    def changed(found: re.Match[str]) -> str:
        return str(int(found[0]) + chance.choice([-1, 1, 10]))

    return re.sub(r"\b\d+\b(?!\.)", changed, query, count=1)


def with_distinct(query: str, _: random.Random) -> str:
    return re.sub(r"(?i)^select\s+(?!distinct)", "SELECT DISTINCT ", query)


def without_distinct(query: str, _: random.Random) -> str:
    return re.sub(r"(?i)\bdistinct\b", "", query)


def limited(query: str, chance: random.Random) -> str:
    if re.search(r"(?i)\blimit\b", query):
        return re.sub(r"(?i)\blimit\s+\d+", f"LIMIT {chance.choice([1, 2, 5])}", query)
    return f"{query} LIMIT {chance.choice([1, 3, 1000])}"


def other_case(query: str, _: random.Random) -> str:
    """Of the values."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", lambda found: found[0].swapcase(), query)


def real_numbers(query: str, _: random.Random) -> str:
    """The first column plus 0.0: whole numbers become real ones, texts become 0.0."""
    return re.sub(rf"{_FIRST_COLUMN}{_NEXT}", r"\1(\2) + 0.0", query)


def as_text(query: str, _: random.Random) -> str:
    """The first column."""
    return re.sub(rf"{_FIRST_COLUMN}{_NEXT}", r"\1(\2) || ''", query)


def twice(query: str, _: random.Random) -> str:
    """Every row twice."""
    return f"SELECT * FROM ({query}) UNION ALL SELECT * FROM ({query})"


def one_column_more(query: str, _: random.Random) -> str:
    return re.sub(r"(?i)^(select(?: distinct)?\s+)", r"\g<1>1, ", query)


def broken(query: str, chance: random.Random) -> str:
    misspelt, unfinished = query.replace("SELECT", "SELEKT", 1), query.rsplit(" ", 1)[0]
    return chance.choice([misspelt, unfinished, f"{query} WHERE", "I do not know", f"{query} )"])


def retokenized(query: str, _: random.Random) -> str:
    """Operators split as tokenizers do it, a semicolon and a second statement."""
    return re.sub(r"([<>!])=", r"\1 =", query) + " ; SELECT 1"


def wrapped(query: str, _: random.Random) -> str:
    return f"SELECT * FROM ({query})"


CHANGES: dict[str, Change] = {
    "swapped columns": swapped_columns,
    "without ORDER BY": without_order,
    "other direction": other_order,
    "other constant": other_constant,
    "DISTINCT added": with_distinct,
    "DISTINCT removed": without_distinct,
    "LIMIT": limited,
    "case of values": other_case,
    "whole as real numbers": real_numbers,
    "numbers as text": as_text,
    "rows twice": twice,
    "one column more": one_column_more,
    "does not run": broken,
    "split operators, two statements": retokenized,
    "as a subquery": wrapped,
}


@dataclass(frozen=True)
class Pair:
    kind: str
    task: Task
    predicted: str


def pairs(tasks: Sequence[Task], count: int) -> list[Pair]:
    """Every gold query, and ``count`` others: each kind in turn, on rows in random order; a change that
    changes nothing is passed over."""
    chance = random.Random(0)
    by_database = defaultdict(list)
    for task in tasks:
        by_database[task.data["db_id"]].append(task.data["query"])
    changes: dict[str, Change | None] = {**CHANGES, "gold of another question": None}
    made: list[Pair] = []
    seen = {(task.id, task.data["query"]) for task in tasks}
    while len(made) < count:
        for kind, change in changes.items():
            for task in chance.sample(tasks, 50):
                gold = task.data["query"]
                predicted = change(gold, chance) if change else chance.choice(by_database[task.data["db_id"]])
                if (task.id, predicted) not in seen:
                    seen.add((task.id, predicted))
                    made.append(Pair(kind, task, predicted))
                    break
    return [*(Pair("gold", task, task.data["query"]) for task in tasks), *made[:count]]


def import_official(folder: Path) -> tuple[Any, Any, Any]:
    """Its modules ``exec_eval``, ``evaluation`` and ``process_sql``; nltk's tokenizer needs no model so."""
    import nltk

    nltk.word_tokenize = functools.partial(nltk.word_tokenize, preserve_line=True)
    sys.path.insert(0, str(folder))
    import evaluation
    import exec_eval
    import process_sql

    return exec_eval, evaluation, process_sql


def official_match(exec_eval: Any, database: Path, pair: Pair) -> str:
    """``1``, ``0``, or how it ended otherwise."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(OFFICIAL_SECONDS)
    try:
        gold = pair.task.data["query"]
        return str(exec_eval.eval_exec_match(str(database), pair.predicted, gold, False, False, False))
    except Exception as error:  # whatever it is, it is the outcome
        return type(error).__name__
    finally:
        signal.alarm(0)


def compare_matches(exec_eval: Any, made: Sequence[Pair], databases: Path) -> None:
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for pair in made:
        name = pair.task.data["db_id"]
        database = databases / name / f"{name}.sqlite"
        theirs = official_match(exec_eval, database, pair)
        ours = str(int(judge(database, pair.predicted, pair.task.data["query"]) is Verdict.SAME))
        counted[pair.kind].update(pairs=1, right=theirs == "1", differ=ours != theirs)
        if ours != theirs:
            print(f"official {theirs}, ours {ours}: {name}\n  {pair.task.data['query']}\n  {pair.predicted}")
    print("| prediction | pairs | official 1 | disagree |\n|---|---|---|---|")
    for kind, counts in counted.items():
        print(f"| {kind} | {counts['pairs']} | {counts['right']} | {counts['differ']} |")
    total = sum(counted.values(), Counter[str]())
    print(f"| all | {total['pairs']} | {total['right']} | {total['differ']} |")


def compare_hardness(evaluation: Any, process_sql: Any, tasks: Sequence[Task]) -> None:
    schemas: dict[str, Any] = {}
    agreed = unparsed = 0
    for task in tasks:
        database = task.data["database"]
        if database not in schemas:
            schemas[database] = process_sql.Schema(process_sql.get_schema(database))
        try:
            tree = process_sql.get_sql(schemas[database], task.data["query"])
        except Exception:  # its parser knows less than SQLite does
            unparsed += 1
            continue
        theirs = evaluation.Evaluator().eval_hardness(tree)
        agreed += theirs == hardness(task.data["query"])
        if theirs != hardness(task.data["query"]):
            print(f"hardness: official {theirs}, ours {hardness(task.data['query'])}: {task.data['query']}")
    print(f"hardness: {agreed} of {len(tasks) - unparsed} agree, {unparsed} that the official parser refuses")


def compare_script(evaluation: Any, made: Sequence[Pair], databases: Path) -> None:
    """The official script on the files that ``predictions.write`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        predicted = predictions.write([(pair.task.data, pair.predicted) for pair in made], Path(folder))
        gold = str(predicted.with_name("gold.txt"))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            evaluation.evaluate(gold, str(predicted), str(databases), "exec", None, False, False, False)
    print(printed.getvalue())
    ours = [
        judge(Path(pair.task.data["database"]), pair.predicted, pair.task.data["query"]) is Verdict.SAME
        for pair in made
    ]
    print(f"ours: {sum(ours) / len(ours):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("official", type=Path)
    parser.add_argument("spider")
    parser.add_argument("--pairs", type=int, default=4000)
    arguments = parser.parse_args()
    exec_eval, evaluation, process_sql = import_official(arguments.official.absolute())
    tasks = [task for split in ("train", "validation") for task in data.load(arguments.spider, split).tasks]
    with tempfile.TemporaryDirectory() as folder:
        databases = Path(folder) / "database"
        shutil.copytree(Path(tasks[0].data["database"]).parents[1], databases, copy_function=shutil.copyfile)
        for path in databases.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        compare_hardness(evaluation, process_sql, tasks)
        made = pairs(tasks, arguments.pairs)
        compare_matches(exec_eval, made, databases)
        compare_script(evaluation, [pair for pair in made if pair.task.split == "validation"], databases)


if __name__ == "__main__":
    main()
