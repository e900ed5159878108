"""Reports on datasets: everything that is wrong is counted and told, and nothing else is called wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import TypedDict

from al_ray.cli import data
from al_ray.data import files
from al_ray.data.dataset import SHOWN, Dataset, Examine, Example, Report, report
from al_ray.data.files import DataRow
from al_ray.errors import DataError, Problem


class Question(TypedDict):
    id: str
    question: str


def examine(directory: Path) -> Examine:
    if (directory / "broken").exists():
        raise DataError(Problem("tables.json", None, "is missing"))

    def example(split: str, row: DataRow) -> Example:
        found = files.checked(row, Question)
        length = len(found["question"])
        return Example(
            found["id"], found["question"], "long" if length > 9 else None, {"length": str(length)}
        )

    return example


FILES = {"train": ["train"], "more": ["more"], "validation": ["dev", "test"]}
MADE = Dataset("made", FILES, Question, examine, ("train", "more"))


def row(identity: object, question: str = "Why?") -> dict[str, Any]:
    return {"id": identity, "question": question}


def write(folder: Path, **contents: Sequence[object]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in contents.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def reported(folder: Path) -> Report:
    found = report("made", MADE, folder)
    assert found is not None
    return found


def test_a_sound_dataset_is_said_to_be_sound_with_its_counts(tmp_path: Path) -> None:
    write(tmp_path, train=[row("a"), row("b", "How?"), row("c", "Where to go?")], dev=[row("d", "Who?")])
    found = reported(tmp_path)
    assert found.sound
    assert list(data.lines(found)) == [
        f"made: {tmp_path}",
        "  train: train.jsonl: 3 rows, 3 valid",
        "    left out: long 1",
        "    length: 4 2, 12 1",
        "  validation: dev.jsonl: 1 rows, 1 valid",
        "    length: 4 1",
    ]


def test_wrong_rows_are_told_up_to_a_number_and_counted_beyond_it(tmp_path: Path) -> None:
    """And the rows after them are read."""
    (tmp_path / "train.jsonl").write_text('{"id":\n' + json.dumps(row(1)) + "\n" + "{}\n" * SHOWN)
    found = reported(tmp_path)
    split = found.splits["train"]
    assert not found.sound
    assert (split.rows, split.wrong_rows, split.problem_count) == (SHOWN + 2, SHOWN + 2, 2 * SHOWN + 2)
    told = [line.strip() for line in data.lines(found) if "wrong: " in line]
    assert len(told) == SHOWN + 1 and told[-1] == f"wrong: {SHOWN + 2} more"
    assert "row 1" in told[0] and "row 2, id: 1: must be a valid string" in told[1]


@pytest.mark.parametrize(
    ("files", "sound", "told"),
    [
        ({"train": [row("a"), row("a")]}, False, "wrong: 1 ids stand more than once: 'a'"),
        (
            {"train": [row("a")], "test": [row("a", "How?")]},
            False,
            "wrong: 1 ids are both in train and in validation: 'a'",
        ),
        (
            {"train": [row("a")], "test": [row("b")]},
            True,
            "1 questions of validation are in train too: 'Why?'",
        ),
        (
            {"train": [row("a")], "more": [row("a")], "dev": [row("a", "How?")]},
            False,
            "wrong: 1 ids are both in more and in validation: 'a'",
        ),
        (
            {"more": [row("a", "Which of them?")], "dev": [row("a", "Which of them?")]},
            True,
            "left out: long 1",
        ),
    ],
)
def test_what_stands_twice_is_told(
    tmp_path: Path, files: dict[str, list[Any]], sound: bool, told: str
) -> None:
    """Of rows that are not left out, in what is trained on and in what is not.

    A question that both have is no mistake: published datasets have such.
    """
    found = reported(write(tmp_path, **files))
    assert found.sound is sound
    assert told in [line.strip() for line in data.lines(found)]


def test_a_dataset_whose_other_files_are_missing_is_told_as_a_whole(tmp_path: Path) -> None:
    (write(tmp_path, train=[row("a")]) / "broken").touch()
    found = reported(tmp_path)
    assert not found.sound
    assert "  wrong: tables.json: None: is missing" in list(data.lines(found))


def test_a_directory_of_all_data_is_entered_and_one_without_the_files_has_no_report(tmp_path: Path) -> None:
    assert report("made", MADE, tmp_path) is None
    write(tmp_path / "made", train=[row("a")])
    assert reported(tmp_path).directory == tmp_path / "made"


def test_the_check_finds_our_environments_and_says_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calc-X's made-up rows are sound; a directory named as a dataset's is that dataset's alone."""
    from al_ray.envs.calc_x.data import SAMPLES

    folder = tmp_path / "calc_x"
    folder.mkdir()
    for file in SAMPLES.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for directory in (tmp_path, folder):
        assert data.check(directory)
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == [f"calc_x: {folder}", "  train: train.jsonl: 64 rows, 64 valid"]
        assert all(not line.endswith(":") and "wrong: " not in line for line in lines)


def test_a_directory_without_data_and_none_at_all_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="holds no file of calc_x"):
        data.check(tmp_path)
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    with pytest.raises(DataError, match="give a directory, or set AL_RAY_DATA"):
        data.check(None)


def test_a_file_of_another_dataset_with_the_same_name_is_none_of_this_one(tmp_path: Path) -> None:
    """Many datasets have a dev.jsonl. A first row that is damaged is still this one's."""
    write(tmp_path, dev=[{"db_id": "x", "query": "SELECT 1"}])
    assert report("made", MADE, tmp_path) is None
    write(tmp_path, train=[{"id": "a", "question": 3}])
    assert list(reported(tmp_path).splits) == ["train"]
    write(tmp_path / "made", train=[{"db_id": "x"}])
    assert reported(tmp_path).splits["train"].wrong_rows == 1
