"""The rows: Spider's release, read from a folder, the hub or the samples, as tasks with their databases.

Beside ``train_spider.json``, ``train_others.json`` and ``dev.json`` lies ``database/ID/ID.sqlite``. The
test suites of the official evaluator have the same layout with more databases in each folder; all count.
``tables.json`` is not read: the schema that the model is shown is that of the database which it asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from typing_extensions import TypedDict

from al_ray.data import files
from al_ray.data.files import DataRow
from al_ray.envs.spider.database import BUDGET, Database
from al_ray.envs.spider.evaluation import normalized
from al_ray.envs.spider.hardness import LEVELS, Hardness, hardness
from al_ray.errors import DataError, Problem
from al_ray.types import Task, TaskSet

SAMPLES = Path(__file__).parent / "samples"
FOLDER = "spider"
FILES = {"train": ("train_spider", "train"), "validation": ("dev", "validation")}
"""File stems by split, in order of preference."""
MORE_FILES = {"train": ("train_others",), "validation": ()}
"""Read after them where they are there."""
TURNS = 3


class Question(TypedDict):
    """A row as published, as far as it is used."""

    db_id: str
    question: str
    query: str


def load(
    path: str | None,
    split: str,
    *,
    databases: str | None = None,
    levels: list[Hardness] | None = None,
    max_schema_chars: int | None = None,
    budget: int = BUDGET,
    turns: int = TURNS,
) -> TaskSet:
    """The tasks of a split, in the order of the files.

    ``databases`` is the folder of databases, in place of the release's own. ``levels`` keeps the rows whose
    gold query is so hard, ``max_schema_chars`` those whose schema is no longer than that. ``budget`` is how
    many characters of the schema, and of a query's result, a call of the model shows, ``turns`` how many
    queries the agent may write.
    """
    folder = databases_folder(path, databases)
    unknown = set(levels or ()) - set(LEVELS)
    if unknown:
        raise DataError(Problem("data.options.levels", sorted(unknown), f"must be of {', '.join(LEVELS)}"))
    tasks: list[Task] = []
    left_out: Counter[str] = Counter()
    families = {}
    for number, found in enumerate(_rows(path, split)):
        name, row = f"{split}-{number}", files.checked(found, Question)
        database = database_of(folder, row["db_id"])
        level = hardness(row["query"])
        # Most queries are asked for twice, in other words.
        families[name] = f"{row['db_id']}: {' '.join(row['query'].split())}"
        if fault := fault_of(database, row["query"]):
            left_out[fault] += 1
        elif levels is not None and level not in levels:
            left_out["of another hardness"] += 1
        elif max_schema_chars is not None and len(database.schema) > max_schema_chars:
            left_out[f"with a schema of more than {max_schema_chars} characters"] += 1
        else:
            data = {
                **row,
                "hardness": level,
                "database": str(database.file),
                "schema": database.schema_within(budget),
                "budget": budget,
                "turns": turns,
            }
            tasks.append(Task(name, data, split))
    return TaskSet(tasks, left_out, families)


def databases_folder(path: str | None, databases: str | None = None) -> Path:
    """Where the databases lie. Raises ``DataError`` where that is no folder."""
    folder = files.directory(path, samples=SAMPLES, folder=FOLDER) / "database"
    if databases is not None:
        folder = Path(databases).expanduser()
    if not folder.is_dir():
        cure = "no such folder: put the release's `database` there, or name one by the option `databases`"
        raise DataError(Problem("the folder of databases", str(folder), cure))
    return folder.absolute()


@cache
def database_of(folder: Path, db_id: str) -> Database:
    """Many rows share it."""
    return Database(folder / db_id / f"{db_id}.sqlite")


def fault_of(database: Database, query: str) -> str | None:
    """Why a row with this gold query teaches nothing, in the words that a user is told; else None."""
    if not database.file.is_file():
        return "whose database is missing"
    if not database.has_rows:
        return "whose database has no rows"
    if database.problem(normalized(query)):
        return "whose gold query does not run"
    return None


def _rows(path: str | None, split: str) -> Iterator[DataRow]:
    yield from files.rows(path, FILES[split], samples=SAMPLES, folder=FOLDER)
    folder = files.directory(path, samples=SAMPLES, folder=FOLDER)
    for name in MORE_FILES[split]:
        if any((folder / f"{name}{suffix}").exists() for suffix in files.SUFFIXES):
            yield from files.rows(str(folder), [name], samples=SAMPLES, folder=FOLDER)
