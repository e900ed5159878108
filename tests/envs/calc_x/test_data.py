"""Rows become tasks: from files in every layout, filtered as asked, with mistakes told by place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from al_ray.envs.calc_x import data, reward
from al_ray.envs.calc_x.calculator import evaluate
from al_ray.errors import DataError
from al_ray.types import Task

CALCULATION = '<gadget id="calculator">1+{n}</gadget>\n<output>0</output>\n\n'


def row(number: int, calls: int = 1, **changes: Any) -> dict[str, Any]:
    chain = "".join(CALCULATION.format(n=n) for n in range(calls))
    texts = {"id": f"t{number}", "question": "How many?", "chain": chain, "result": "2", "source": "made"}
    return texts | changes


def write(file: Path, rows: Sequence[object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def ids(tasks: Sequence[Task]) -> list[str]:
    return [task.id for task in tasks]


@pytest.mark.parametrize(("split", "count"), [("train", 64), ("validation", 32)])
def test_every_sample_chain_evaluates_to_its_result(split: str, count: int) -> None:
    """The shipped rows are right: each output is the calculator's and the last one is the result."""
    tasks = data.load(None, split)
    assert len(set(ids(tasks))) == count
    for task in tasks:
        outputs = [evaluate(expression) for expression in data.calculations(task.data["chain"])]
        assert all(f"<output>{output}</output>" in task.data["chain"] for output in outputs)
        assert reward.score(task.data, f"### {outputs[-1]} ###") == 1.0


def test_the_samples_for_validation_are_not_those_for_training() -> None:
    """No question occurs in both splits."""
    questions = [
        {task.data["question"] for task in data.load(None, split)} for split in ("train", "validation")
    ]
    assert not questions[0] & questions[1]


def test_rows_come_in_file_order_as_tasks_of_the_split(tmp_path: Path) -> None:
    """A task's id and data are the row's; keys that Calc-X has besides are left out."""
    write(tmp_path / "train.jsonl", [row(2), row(1, extra="x")])
    assert data.load(str(tmp_path), "train") == [Task("t2", row(2), "train"), Task("t1", row(1), "train")]


def test_a_folder_of_all_data_is_entered(tmp_path: Path) -> None:
    """Where the folder has a ``calc_x`` inside, that is read."""
    write(tmp_path / "calc_x" / "train.jsonl", [row(1)])
    assert ids(data.load(str(tmp_path), "train")) == ["t1"]


def test_test_files_serve_as_validation_unless_there_is_one(tmp_path: Path) -> None:
    """A release with train and test only can be trained on; a validation file is preferred."""
    write(tmp_path / "test.jsonl", [row(1)])
    assert ids(data.load(str(tmp_path), "validation")) == ["t1"]
    write(tmp_path / "validation.jsonl", [row(2)])
    assert ids(data.load(str(tmp_path), "validation")) == ["t2"]


def test_parquet_files_are_read_as_published(tmp_path: Path) -> None:
    """Calc-X's own files hold the same rows."""
    parquet.write_table(pyarrow.Table.from_pylist([row(1), row(2)]), tmp_path / "train.parquet")
    assert data.load(str(tmp_path), "train") == [Task(f"t{n}", row(n), "train") for n in (1, 2)]


def test_options_keep_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    """By source, by the number of calculations (at least one) and of operators, and by length."""
    rows = [row(0, 0), row(1, 1), row(2, 2), row(3, source="b"), row(4, question="Long " * 9 + "?")]
    write(tmp_path / "train.jsonl", rows)

    def kept(**options: Any) -> list[str]:
        return ids(data.load(str(tmp_path), "train", **options))

    assert kept() == ["t0", "t1", "t2", "t3", "t4"]
    assert kept(sources=["b"]) == ["t3"]
    assert kept(max_calls=1) == ["t1", "t3", "t4"]
    assert kept(max_operations=1) == ["t0", "t1", "t3", "t4"]
    assert kept(max_question_chars=9) == ["t0", "t1", "t2", "t3"]
    assert kept(sources=["made"], max_calls=2, max_question_chars=9) == ["t1", "t2"]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (row(2, result=7), ["row 2, result", "7"]),
        ({"id": "t2"}, ["row 2, question", "None"]),
        (["t2"], ["row 2", "['t2']"]),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: object, told: list[str]) -> None:
    """The error tells file, row, field and value."""
    write(tmp_path / "train.jsonl", [row(1), bad])
    with pytest.raises(DataError) as caught:
        data.load(str(tmp_path), "train")
    assert all(part in str(caught.value) for part in [str(tmp_path / "train.jsonl"), *told])


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    """The error tells file, row and the line."""
    (tmp_path / "train.jsonl").write_text('{"id": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"row 1: '\{\"id\""):
        data.load(str(tmp_path), "train")


@pytest.mark.parametrize("path", ["{empty}", "{empty}/absent"])
def test_a_folder_without_the_files_is_an_error(tmp_path: Path, path: str) -> None:
    """The error tells which files were looked for."""
    with pytest.raises(DataError, match=r"validation\.jsonl, validation\.parquet, test\.jsonl"):
        data.load(path.format(empty=tmp_path), "validation")


def test_options_that_no_row_passes_are_an_error() -> None:
    """Training on nothing is refused, with the options that caused it."""
    with pytest.raises(DataError, match="absent"):
        data.load(None, "train", sources=["absent"])


def test_a_hub_name_that_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether ``datasets`` is missing or the hub is, the name and the cure are told."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"'nobody/calc_x': no such folder.*Hugging Face hub"):
        data.load("nobody/calc_x", "train")


def test_real_rows_load_and_nearly_all_are_calculations(real_tasks: Sequence[Task]) -> None:
    """The published format is understood: every chain that has calculations evaluates."""
    assert len(set(ids(real_tasks))) == len(real_tasks)
    counts = [len([evaluate(e) for e in data.calculations(task.data["chain"])]) for task in real_tasks]
    assert sum(count > 0 for count in counts) > 0.98 * len(counts)
