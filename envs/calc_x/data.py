"""The rows: Calc-X's format, read from a folder, the hub or the samples, as tasks.

A row has the texts ``id``, ``question``, ``chain``, ``result`` and ``source``; the chain holds the
calculations as ``<gadget id="calculator">48/2</gadget><output>24</output>``.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from al_ray.errors import DataError, Problem
from al_ray.types import Task

FIELDS = ("id", "question", "chain", "result", "source")
SAMPLES = Path(__file__).parent / "samples"

_CALCULATION = re.compile(r'<gadget id="calculator">(.*?)</gadget>', re.DOTALL)
_OPERATOR = re.compile(r"\*\*|//|[-+*/%^]")


def load(
    path: str | None,
    split: str,
    *,
    sources: list[str] | None = None,
    max_calls: int | None = None,
    max_operations: int | None = None,
    max_question_chars: int | None = None,
) -> list[Task]:
    """The tasks of a split, in the order of the file.

    ``sources`` keeps the rows that come from these datasets, ``max_calls`` those with between one
    and so many calculations, ``max_operations`` those with at most so many operators in all of them
    together, ``max_question_chars`` those with a question no longer than that.
    """
    tasks = []
    for where, row in _rows(path, split):
        _check(where, row)
        if sources is not None and row["source"] not in sources:
            continue
        if max_calls is not None and not 1 <= len(calculations(row["chain"])) <= max_calls:
            continue
        if max_operations is not None and operations(row["chain"]) > max_operations:
            continue
        if max_question_chars is not None and len(row["question"]) > max_question_chars:
            continue
        tasks.append(Task(row["id"], {field: row[field] for field in FIELDS}, split))
    if not tasks:
        options = {
            "sources": sources,
            "max_calls": max_calls,
            "max_operations": max_operations,
            "max_question_chars": max_question_chars,
        }
        raise DataError(
            Problem(f"rows of {split} in {path or SAMPLES}", options, "no row passes these options")
        )
    return tasks


def calculations(chain: str) -> list[str]:
    """The expressions of a chain, as they are written there."""
    return [match.strip() for match in _CALCULATION.findall(chain)]


def operations(chain: str) -> int:
    """How many operators the expressions of a chain have; a sign is one."""
    return sum(len(_OPERATOR.findall(expression)) for expression in calculations(chain))


def _rows(path: str | None, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row of the split with the place where it was found."""
    folder = SAMPLES if path is None else Path(path).expanduser()
    if not folder.exists() and path is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        yield from _hub_rows(path, split)
        return
    if (folder / "calc_x").is_dir():
        folder /= "calc_x"
    file = _find(folder, split)
    yield from (_jsonl_rows if file.suffix == ".jsonl" else _parquet_rows)(file)


def _find(folder: Path, split: str) -> Path:
    names = ("validation", "test") if split == "validation" else (split,)
    candidates = [folder / f"{name}.{suffix}" for name in names for suffix in ("jsonl", "parquet")]
    for file in candidates:
        if file.is_file():
            return file
    expected = ", ".join(file.name for file in candidates)
    raise DataError(Problem("data.path", str(folder), f"no such folder, or it holds none of {expected}"))


def _jsonl_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file}, row {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(Problem(where, line[:80], f"must be one JSON object: {error}")) from error


def _parquet_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    parquet = importlib.import_module("pyarrow.parquet")  # only where needed: it takes a while to load
    for number, row in enumerate(parquet.read_table(file).to_pylist(), start=1):
        yield f"{file}, row {number}", row


def _hub_rows(name: str, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        cure = "no such folder; to read it from the Hugging Face hub, install `datasets`"
        raise DataError(Problem("data.path", name, cure)) from error
    try:
        rows = datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:
        cure = f"no such folder, and the Hugging Face hub did not give it: {error}"
        raise DataError(Problem("data.path", name, cure)) from error
    for number, row in enumerate(rows, start=1):
        yield f"{name}, row {number}", row


def _check(where: str, row: object) -> None:
    if not isinstance(row, Mapping):
        raise DataError(Problem(where, row, f"must be an object with the texts {', '.join(FIELDS)}"))
    for field in FIELDS:
        if not isinstance(row.get(field), str):
            raise DataError(Problem(f"{where}, {field}", row.get(field), "must be a text"))
