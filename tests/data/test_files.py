"""Data files: the first that exists is read, in every format, and each mistake is told by its place."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pyarrow
import pytest
from pyarrow import parquet
from typing_extensions import TypedDict

from al_ray.data import files
from al_ray.data.files import DataRow
from al_ray.errors import DataError


class Schema(TypedDict):
    id: str
    hops: list[int]


VALUES = [{"id": "a", "hops": [1]}, {"id": "b", "hops": [1, 2], "more": None}]


def write(path: Path, values: Sequence[object] = VALUES) -> Path:
    """In the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(values)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(values), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def rows(path: Path | None, *names: str, samples: Path = Path("absent")) -> list[DataRow]:
    return list(files.rows(None if path is None else str(path), names, samples=samples, folder="made"))


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_every_format_gives_the_same_checked_rows(tmp_path: Path, suffix: str) -> None:
    """What a schema does not name is left out."""
    path = write(tmp_path / f"train{suffix}")
    found = rows(tmp_path, "train")
    assert [row.where for row in found] == [f"{path}, row {number}" for number in (1, 2)]
    checked = [files.checked(row, Schema) for row in found]
    assert checked == [{"id": "a", "hops": [1]}, {"id": "b", "hops": [1, 2]}]


def test_the_first_name_that_exists_is_read(tmp_path: Path) -> None:
    """Names come before formats; of formats, jsonl comes first."""
    write(tmp_path / "test.jsonl")
    write(tmp_path / "dev.parquet")
    assert "dev.parquet" in rows(tmp_path, "dev", "test")[0].where
    write(tmp_path / "dev.jsonl")
    assert "dev.jsonl" in rows(tmp_path, "dev", "test")[0].where


def test_a_directory_of_all_data_is_entered_and_samples_serve_without_one(tmp_path: Path) -> None:
    write(tmp_path / "made" / "train.jsonl")
    for found in (rows(tmp_path, "train"), rows(None, "train", samples=tmp_path / "made")):
        assert [row.values for row in found] == VALUES


@pytest.mark.parametrize("path", ["{tmp}", "{tmp}/absent"])
def test_a_folder_without_the_files_is_an_error(tmp_path: Path, path: str) -> None:
    """It tells which files were looked for."""
    with pytest.raises(DataError, match=r"dev\.jsonl, dev\.json, dev\.parquet, test\.jsonl"):
        rows(Path(path.format(tmp=tmp_path)), "dev", "test")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"id": \n', r"row 2: '\{\"id\".*must be one JSON object"),
        (b"\xff\n", "row 2: .*must be one JSON object"),
        (b'["a"]\n', r"row 2: \['a'\]: a row must be an object"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_those_after_it_are_read(
    tmp_path: Path, line: bytes, told: str
) -> None:
    """``read`` goes on behind it; ``rows`` ends there."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + line + b'{"id": "b"}\n')
    before, bad, after = files.read(path)
    assert isinstance(before, DataRow) and isinstance(after, DataRow) and after.values == {"id": "b"}
    with pytest.raises(DataError, match=told):
        raise bad if isinstance(bad, DataError) else AssertionError(bad)
    with pytest.raises(DataError, match=told):
        rows(tmp_path, "train")


@pytest.mark.parametrize(("text", "told"), [("[", "must be one JSON list"), ("{}", "'dict'")])
def test_a_json_file_that_is_no_list_is_an_error(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(DataError, match=told):
        rows(tmp_path, "train")


def test_a_file_that_is_no_parquet_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match="must be a Parquet file"):
        rows(tmp_path, "train")


def test_a_parquet_file_with_damaged_pages_is_an_error(tmp_path: Path) -> None:
    """They are decoded as the rows are read."""
    path = write(tmp_path / "train.parquet", [{"id": f"{i} " * 9, "hops": [i]} for i in range(2000)])
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\xaa" * 4000 + content[4200:])
    with pytest.raises(
        DataError, match=r"train.parquet: 'train.parquet': (cannot be read|must be a Parquet)"
    ):
        rows(tmp_path, "train")


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_what_nobody_may_read_or_look_at_is_told(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / f"train{suffix}")
    denied = mock.Mock(side_effect=PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", denied)
        patch.setattr(Path, "read_bytes", denied)
        patch.setattr(parquet, "ParquetFile", denied)
        with pytest.raises(DataError, match=f"{path}: 'train{suffix}': cannot be read: Permission denied"):
            rows(tmp_path, "train")
    for method in ("exists", "is_dir", "is_file"):
        with monkeypatch.context() as patch, pytest.raises(DataError) as caught:
            patch.setattr(Path, method, denied)
            rows(tmp_path, "train")
        assert str(caught.value) == f"data.path: '{tmp_path}': cannot be looked at: Permission denied"
    with pytest.raises(DataError, match=r"data.path: '~nobody-at-all/x': cannot be looked at: Could not"):
        list(files.rows("~nobody-at-all/x", ["train"], samples=tmp_path, folder="made"))


def test_every_wrong_field_of_a_row_is_told() -> None:
    """Nothing is converted: a number is no text."""
    with pytest.raises(DataError) as caught:
        files.checked(DataRow("file, row 3", {"hops": [1, "2"]}), Schema)
    assert [problem.where for problem in caught.value.problems] == ["file, row 3, id", "file, row 3, hops.1"]
    assert [problem.value for problem in caught.value.problems] == [None, "2"]


def test_a_hub_name_that_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether ``datasets`` is missing or the hub is, the name and the cure are told."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # The variable is read when this is imported, which another test may have done.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'nobody/made': no such folder.*Hugging Face hub"):
        list(files.rows("nobody/made", ["train"], samples=Path("absent"), folder="made"))


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(
    ("row", "place"),
    [
        ({"id": "a", "question": "x \ud800"}, ", question"),
        ({"id": "a", "parts": [{"text": ["ok", "\udc00"]}]}, ", parts.0, text.1"),
        ({"id": "a", "x\ud800": 1}, ", a key"),
    ],
)
def test_half_a_surrogate_pair_is_told_by_place(tmp_path: Path, suffix: str, row: object, place: str) -> None:
    """JSON can write it, and everything that stores or sends the row would fail on it later."""
    path = write(tmp_path / f"train{suffix}", [{"id": "\U0001f600"}, row])
    with pytest.raises(DataError) as told:
        rows(tmp_path, "train")
    assert str(told.value).startswith(f"{path}, row 2{place}: ")
    assert "half of a surrogate pair" in str(told.value)
