"""Rows become tasks with their databases; what teaches nothing is left out, counted and said."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from al_ray.data.dataset import report
from al_ray.envs.spider import data
from al_ray.envs.spider.checks import DATASET
from al_ray.envs.spider.database import Database
from al_ray.errors import DataError
from al_ray.types import Task, TaskSet
from tests.envs.spider.conftest import HARBOUR

ROW = {"db_id": "harbour", "question": "How many ships?", "query": "SELECT count(*) FROM ship"}


def release(folder: Path, rows: Sequence[object], name: str = "train_spider.json") -> str:
    """A release with these rows and the database ``harbour``."""
    target = folder / "database" / "harbour"
    if not target.exists():
        shutil.copytree(HARBOUR.parent, target)
    (folder / name).write_text(json.dumps(rows))
    return str(folder)


def made(folder: Path, name: str, script: str) -> Path:
    file = folder / "database" / name / f"{name}.sqlite"
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(script)
    return file


def test_questions_that_one_query_answers_are_a_family(tmp_path: Path) -> None:
    again = {
        **ROW,
        "question": "What is the number of ships?",
        "query": ROW["query"].replace(" FROM", "  FROM"),
    }
    other = {**ROW, "query": "SELECT name FROM ship"}
    first, second, third = data.load(release(tmp_path, [ROW, again, other]), "train").families.values()
    assert first == second != third


def test_a_row_becomes_a_task_with_all_that_agent_and_reward_need(tmp_path: Path) -> None:
    """Keys that the release has besides are left out."""
    folder = release(tmp_path / "spider", [ROW | {"query_toks": ["SELECT"]}])
    expected = {
        **ROW,
        "hardness": "easy",
        "database": str(tmp_path / "spider" / "database" / "harbour" / "harbour.sqlite"),
        "schema": "ship(id, name, length, flag)\nvisit(id, ship_id -> ship.id, month, crates)",
        "budget": 2048,
        "turns": 3,
    }
    for path in (folder, str(tmp_path)):
        assert data.load(path, "train").tasks == [Task("train-0", expected, "train")]


def test_all_files_of_the_split_are_read_in_order(tmp_path: Path) -> None:
    """``train_others.json`` after ``train_spider.json``; ``dev.json`` alone for validation."""
    release(tmp_path, [ROW])
    release(tmp_path, [ROW | {"question": "And now?"}], "train_others.json")
    release(tmp_path, [ROW | {"question": "Held out?"}], "dev.json")
    questions = {
        split: [(task.id, task.data["question"]) for task in data.load(str(tmp_path), split).tasks]
        for split in ("train", "validation")
    }
    assert questions == {
        "train": [("train-0", "How many ships?"), ("train-1", "And now?")],
        "validation": [("validation-0", "Held out?")],
    }


def test_rows_that_teach_nothing_are_left_out_and_counted(tmp_path: Path) -> None:
    """By reason; the ids of the others stay."""
    rows = [
        ROW | {"db_id": "gone"},
        ROW | {"db_id": "empty", "query": "SELECT * FROM t"},
        ROW | {"query": "SELECT nom FROM ship"},
        ROW | {"query": "SELECT name FROM ship WHERE length > YEAR(CURDATE())"},
        ROW | {"query": "-- nobody knows"},
    ]
    folder = release(tmp_path, rows)
    made(tmp_path, "empty", "CREATE TABLE t (a)")
    found = data.load(folder, "train")
    assert [task.id for task in found.tasks] == ["train-3"]
    assert found.left_out == {
        "whose database is missing": 1,
        "whose database has no rows": 1,
        "whose gold query does not run": 2,
    }


@pytest.mark.parametrize(
    ("options", "count", "reason"),
    [
        ({"levels": ["hard", "extra"]}, 12, "of another hardness"),
        ({"max_schema_chars": 75}, 32, "with a schema of more than 75 characters"),
    ],
)
def test_options_keep_what_they_say(options: dict[str, Any], count: int, reason: str) -> None:
    """And count the rest."""
    found = data.load(None, "train", **options)
    assert (len(found.tasks), found.left_out) == (count, {reason: 64 - count})


def test_the_same_tasks_come_each_time(sample_tasks: Sequence[Task]) -> None:
    """In the same order, with ids of their own, and no question in both splits."""
    again = [task for split in ("train", "validation") for task in data.load(None, split).tasks]
    assert again == sample_tasks and len({task.id for task in again}) == 96
    questions = [
        {task.data["question"] for task in again if task.split == split} for split in ("train", "validation")
    ]
    assert not questions[0] & questions[1]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([ROW, {"db_id": "harbour", "query": "x"}], r"row 2, question: None: the field is missing"),
        ([ROW | {"query": 3}], r"row 1, query: 3: must be a valid string"),
    ],
)
def test_a_row_of_the_wrong_shape_is_told_by_file_row_and_field(
    tmp_path: Path, rows: Sequence[object], told: str
) -> None:
    """Nothing is guessed."""
    with pytest.raises(DataError, match=told):
        data.load(release(tmp_path, rows), "train")


def test_a_folder_without_databases_and_an_unknown_level_are_told(tmp_path: Path) -> None:
    """With the cure."""
    (tmp_path / "train_spider.json").write_text("[]")
    with pytest.raises(DataError, match=r"database.*name one by the option `databases`"):
        data.load(str(tmp_path), "train")
    with pytest.raises(DataError, match=r"data\.options\.levels: \['simple'\]: must be of easy, medium"):
        data.load(None, "train", levels=["simple"])


def test_databases_may_lie_elsewhere(tmp_path: Path) -> None:
    """As the test suites do."""
    (tmp_path / "dev.json").write_text(json.dumps([ROW]))
    (task,) = data.load(str(tmp_path), "validation", databases=str(data.SAMPLES / "database")).tasks
    assert task.data["database"] == str(HARBOUR)


def test_the_databases_of_the_samples_are_their_schema_files() -> None:
    """Each was built from the text beside it, and the files say the same."""
    for file in (data.SAMPLES / "database").glob("*/*.sqlite"):
        with closing(sqlite3.connect(":memory:")) as built, closing(sqlite3.connect(file)) as shipped:
            built.executescript(file.with_name("schema.sql").read_text(encoding="utf-8"))
            assert list(built.iterdump()) == list(shipped.iterdump())


def test_a_schema_names_tables_columns_and_references(tmp_path: Path) -> None:
    """Odd names in quotes, as they must be written in a query."""
    script = """
        CREATE TABLE "order" (id INTEGER PRIMARY KEY, "unit price" REAL);
        CREATE TABLE "2 lines" (order_id REFERENCES "order", Other REFERENCES "order"("unit price"));
        CREATE VIEW v AS SELECT 1;
    """
    database = Database(made(tmp_path, "odd", script))
    assert database.schema == (
        'order(id, "unit price")\n"2 lines"(order_id -> order, Other -> order."unit price")'
    )
    assert not database.has_rows


def test_a_schema_is_cut_between_tables(tmp_path: Path) -> None:
    """What fits is whole, and what does not is counted; the first table may have to be cut."""
    database = Database(made(tmp_path, "many", "".join(f"CREATE TABLE t{n} (a, b);" for n in range(30))))
    cut = database.schema_within(100).split("\n")
    assert cut[:2] == ["t0(a, b)", "t1(a, b)"] and cut[-1] == f"... {30 - len(cut) + 1} more tables"
    assert all(len(database.schema_within(budget)) <= budget for budget in range(5, 400))
    assert database.schema_within(1000) == database.schema


def test_the_real_rows_load_with_the_faults_that_are_known(real_train: TaskSet) -> None:
    """Databases without rows, and gold queries that do not run."""
    assert len(real_train.tasks) + sum(real_train.left_out.values()) == 7000
    assert real_train.left_out["whose gold query does not run"] == 3
    assert set(real_train.left_out) == {
        "whose database is missing",
        "whose database has no rows",
        "whose gold query does not run",
    }


def test_a_check_of_the_data_counts_what_loading_leaves_out(tmp_path: Path) -> None:
    """Also in ``train_others.json``; the samples are sound."""
    found = report("spider", DATASET, data.SAMPLES)
    assert found is not None and found.sound
    release(tmp_path, [ROW, ROW | {"db_id": "gone"}, {"db_id": "harbour"}])
    release(tmp_path, [ROW | {"question": "And now?"}], "train_others.json")
    found = report("spider", DATASET, tmp_path)
    assert found is not None and not found.sound
    train, others = found.splits["train"], found.splits["train_others"]
    assert (train.rows, train.wrong_rows, train.left_out) == (3, 1, {"whose database is missing": 1})
    assert (others.rows, others.kinds) == (1, {"hardness": {"easy": 1}})
