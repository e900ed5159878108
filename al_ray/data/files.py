"""Data files: the rows of a dataset, each with the place where it was found, checked against a schema.

A dataset is a directory, a directory that holds the dataset's own as a sub-directory, or a name on the
Hugging Face hub. A file is ``.jsonl``, ``.json`` (one list) or ``.parquet``; its rows are objects.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from al_ray.errors import DataError, Problem

SUFFIXES = (".jsonl", ".json", ".parquet")
"""In this order of preference."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

HELD_OUT = "whose question is held out"
"""Why a training row may be left out."""

_HALF_PAIR = re.compile("[\ud800-\udfff]")

SchemaT = TypeVar("SchemaT")


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row, not yet checked."""

    where: str
    """File and number, the first being 1."""
    values: Mapping[str, Any]


def rows(path: str | None, names: Sequence[str], *, samples: Path, folder: str) -> Iterator[DataRow]:
    """The rows of the first file that exists among ``names`` (file stems, in order of preference).

    ``path`` is as ``directory`` takes it, or a hub dataset name, of which ``names`` are then splits.
    Raises ``DataError`` where nothing is found, and at the first row that cannot be read.
    """
    with _looked_at(path):
        is_here = path is None or Path(path).expanduser().exists()
    if path is not None and not is_here and _HUB_NAME.fullmatch(path):
        yield from _hub_rows(path, names)
        return
    for found in read(file(directory(path, samples=samples, folder=folder), names)):
        if isinstance(found, DataError):
            raise found
        yield found


def questions(path: str | None, names: Sequence[str], *, samples: Path, folder: str) -> frozenset[str]:
    """What the ``rows`` of a file ask, each as ``asked`` has it; none where there is no such file."""
    try:
        found = [*rows(path, names, samples=samples, folder=folder)]
    except DataError:  # whoever loads them is told
        return frozenset()
    return frozenset(asked(str(row.values.get("question"))) for row in found)


def asked(question: str) -> str:
    """The question, however it is spaced: what no two splits should share."""
    return " ".join(question.split())


def checked(row: DataRow, schema: type[SchemaT]) -> SchemaT:
    """The row's values as ``schema`` has them (a ``TypedDict``); keys that it does not name are left out.

    Raises ``DataError`` with every field that is missing or of another type.
    """
    try:
        return cast(SchemaT, _adapter(cast(Hashable, schema)).validate_python(row.values, strict=True))
    except ValidationError as error:
        raise DataError(*(_problem(row, mistake) for mistake in error.errors())) from None


def directory(path: str | None, *, samples: Path, folder: str) -> Path:
    """Where the dataset's files are: ``path``, or its sub-directory ``folder``; ``samples`` if it is None.
    Raises ``DataError`` where nobody may look."""
    with _looked_at(path):
        found = samples if path is None else Path(path).expanduser()
        return found / folder if (found / folder).is_dir() else found


def file(where: Path, names: Sequence[str]) -> Path:
    """The first file that exists. Raises ``DataError`` with those that were looked for."""
    candidates = [where / f"{name}{suffix}" for name in names for suffix in SUFFIXES]
    with _looked_at(str(where)):
        for candidate in candidates:
            if candidate.is_file():
                return candidate
    expected = ", ".join(candidate.name for candidate in candidates)
    raise DataError(Problem("data.path", str(where), f"no such folder, or it holds none of {expected}"))


@contextmanager
def _looked_at(path: str | None) -> Iterator[None]:
    """Inside, it is looked for; what keeps somebody from it, or that they have no home, is told."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cure = f"cannot be looked at: {getattr(error, 'strerror', None) or error}"
        raise DataError(Problem("data.path", path, cure)) from error


def read(path: Path) -> Iterator[DataRow | DataError]:
    """Every row of a file, or in its place what is wrong with it: a bad row does not end the reading. Raises
    ``DataError`` where the file itself cannot be read, or not further."""
    for number, found in enumerate(_found(path), start=1):
        where = f"{path}, row {number}"
        if isinstance(found, _Unreadable):
            yield DataError(Problem(where, found.text, found.cure))
        elif not isinstance(found, Mapping):
            yield DataError(Problem(where, found, "a row must be an object"))
        elif broken := next(_broken_texts(found, where), None):
            yield DataError(broken)
        else:
            yield DataRow(where, found)


def _found(path: Path) -> Iterator[Any]:
    readers: Mapping[str, Callable[[Path], Iterable[Any]]]
    readers = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    try:
        yield from readers[path.suffix](path)
    except OSError as error:  # also of Parquet whose pages are damaged
        cure = f"cannot be read: {error.strerror or error}"
        raise DataError(Problem(str(path), path.name, cure)) from error


def has_half_pair(text: str) -> bool:
    """Whether half a surrogate pair is in it, which JSON can write and nothing can send or store."""
    return not text.isascii() and _HALF_PAIR.search(text) is not None


def _broken_texts(value: Any, where: str) -> Iterator[Problem]:
    if isinstance(value, str):
        if has_half_pair(value):
            shown = value[:80].encode(errors="backslashreplace").decode()
            yield Problem(where, shown, "half of a surrogate pair is no character; mend the text")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _broken_texts(key, f"{where}, a key")
            yield from _broken_texts(item, f"{where}, {key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _broken_texts(item, f"{where}.{index}")


@dataclass(frozen=True, slots=True)
class _Unreadable:
    text: str
    cure: str


def _jsonl(path: Path) -> Iterator[Any]:
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError as error:  # also of bytes that are no UTF-8
                text = line[:80].decode(errors="replace")
                yield _Unreadable(text, f"must be one JSON object: {error}")


def _json(path: Path) -> Iterable[Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(Problem(str(path), path.name, f"must be one JSON list: {error}")) from error
    if not isinstance(found, list):
        raise DataError(Problem(str(path), type(found).__name__, "must be one JSON list of objects"))
    return found


def _parquet(path: Path) -> Iterator[Any]:
    pyarrow = importlib.import_module("pyarrow")  # only where needed: it takes a while to load
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        for batch in parquet.ParquetFile(path).iter_batches():  # each is decoded when it is its turn
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(Problem(str(path), path.name, f"must be a Parquet file: {error}")) from error


def _hub_rows(name: str, splits: Sequence[str]) -> Iterator[DataRow]:
    split, found = _from_hub(name, splits)
    for number, values in enumerate(found, start=1):
        yield DataRow(f"{name}, {split}, row {number}", values)


def _from_hub(name: str, splits: Sequence[str]) -> tuple[str, Iterable[Mapping[str, Any]]]:
    """The first of the splits that the dataset has."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        cure = "no such folder; to read it from the Hugging Face hub, install `datasets`"
        raise DataError(Problem("data.path", name, cure)) from error
    problem: Exception | None = None
    for split in splits:
        try:
            return split, datasets.load_dataset(name, split=split)
        except ValueError as error:  # it has no such split
            problem = error
        except OSError as error:
            cure = f"no such folder, and the Hugging Face hub did not give it: {error}"
            raise DataError(Problem("data.path", name, cure)) from error
    cure = f"the dataset on the Hugging Face hub has none of the splits {', '.join(splits)}: {problem}"
    raise DataError(Problem("data.path", name, cure)) from problem


@lru_cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def _problem(row: DataRow, mistake: Mapping[str, Any]) -> Problem:
    field = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "missing":
        return Problem(f"{row.where}, {field}", None, "the field is missing")
    cure = mistake["msg"].replace("Input should", "must", 1)
    return Problem(f"{row.where}, {field}", mistake["input"], cure)
