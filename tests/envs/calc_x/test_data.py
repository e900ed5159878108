"""Rows become tasks: from files in every layout, filtered as asked, with mistakes told by place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

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
    tasks = data.load(None, split).tasks
    assert len(set(ids(tasks))) == count
    for task in tasks:
        outputs = [evaluate(expression) for expression in data.calculations(task.data["chain"])]
        assert all(f"<output>{output}</output>" in task.data["chain"] for output in outputs)
        assert reward.score(task.data, f"### {outputs[-1]} ###")["reward"] == 1.0


def test_the_samples_for_validation_are_not_those_for_training() -> None:
    """No question occurs in both splits."""
    questions = [
        {task.data["question"] for task in data.load(None, split).tasks} for split in ("train", "validation")
    ]
    assert not questions[0] & questions[1]


def test_rows_come_in_file_order_as_tasks_of_the_split(tmp_path: Path) -> None:
    """A task's id and data are the row's; keys that Calc-X has besides are left out."""
    write(tmp_path / "train.jsonl", [row(2), row(1, extra="x")])
    tasks = data.load(str(tmp_path), "train").tasks
    assert tasks == [Task("t2", row(2), "train"), Task("t1", row(1), "train")]


def test_a_question_that_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    """Whatever its id and its spaces; the same words are a family where a share of the rows is held out."""
    rows = [row(0, question="How  many?"), row(1, question="How much?"), row(2, question="How much?")]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "validation.jsonl", [row(7)])
    found = data.load(str(tmp_path), "train")
    assert ids(found.tasks) == ["t1", "t2"] and found.left_out == {"whose question is held out": 1}
    assert found.families["t1"] == found.families["t2"] != found.families["t0"]
    assert ids(data.load(str(tmp_path), "validation").tasks) == ["t7"]


def test_options_keep_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    """By source, by the number of calculations (at least one) and of operators, and by length."""
    rows = [row(0, 0), row(1, 1), row(2, 2), row(3, source="b"), row(4, question="Long " * 9 + "?")]
    write(tmp_path / "train.jsonl", rows)

    def kept(**options: Any) -> list[str]:
        found = data.load(str(tmp_path), "train", **options)
        assert len(found.tasks) + sum(found.left_out.values()) == len(rows)
        return ids(found.tasks)

    assert kept() == ["t0", "t1", "t2", "t3", "t4"]
    assert kept(sources=["b"]) == ["t3"]
    assert kept(max_calls=1) == ["t1", "t3", "t4"]
    assert kept(max_operations=1) == ["t0", "t1", "t3", "t4"]
    assert kept(max_question_chars=9) == ["t0", "t1", "t2", "t3"]
    assert kept(sources=["made"], max_calls=2, max_question_chars=9) == ["t1", "t2"]
    assert data.load(str(tmp_path), "train", sources=["b"], max_calls=0).left_out == {
        "of other sources": 4,
        "without a calculation or with more than 0": 1,
    }


def test_a_release_with_train_and_test_only_is_validated_on_test(tmp_path: Path) -> None:
    """A validation file is preferred."""
    write(tmp_path / "calc_x" / "test.jsonl", [row(1)])
    assert ids(data.load(str(tmp_path), "validation").tasks) == ["t1"]
    write(tmp_path / "calc_x" / "validation.jsonl", [row(2)])
    assert ids(data.load(str(tmp_path), "validation").tasks) == ["t2"]


@pytest.mark.parametrize(
    ("bad", "told"),
    [(row(2, result=7), ["row 2, result", "7"]), ({"id": "t2"}, ["row 2, question", "row 2, source"])],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: object, told: list[str]) -> None:
    """The error tells file, row, field and value."""
    write(tmp_path / "train.jsonl", [row(1), bad])
    with pytest.raises(DataError) as caught:
        data.load(str(tmp_path), "train")
    assert all(part in str(caught.value) for part in [str(tmp_path / "train.jsonl"), *told])


def test_real_rows_load_and_nearly_all_are_calculations(real_tasks: Sequence[Task]) -> None:
    """The published format is understood: every chain that has calculations evaluates."""
    assert len(set(ids(real_tasks))) == len(real_tasks)
    counts = [len([evaluate(e) for e in data.calculations(task.data["chain"])]) for task in real_tasks]
    assert sum(count > 0 for count in counts) > 0.98 * len(counts)
