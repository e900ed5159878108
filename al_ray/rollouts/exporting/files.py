"""A run's records as the rows of one file, for other programs: JSON lines or Parquet.

Both formats have the same columns. JSON of no fixed shape is text in both, and text is never null, so
that a reader that guesses a schema from the first lines, as Hugging Face's does, guesses right. The
file's suffix names its format; one that names none needs to be told. Rows are written as they are read,
a page at a time; the file is whole or not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from al_ray.errors import Problem, UserError
from al_ray.machines.whole import whole_file
from al_ray.rollouts.exporting.tables import TABLES, Export, Row

ROWS_CONVERTED: Final = 32
ROW_GROUP_BYTES: Final = 16 * 2**20
"""Of Parquet: what a reader takes at once, and what is held in memory."""


def export(source: Export, what: str, format: str | None, output: Path) -> int:
    """Writes ``output`` and returns its number of rows; without a format, in the one that its suffix
    names. Raises ``UserError``."""
    if what not in TABLES:
        known = (*TABLES, "episodes")  # which a higher room writes, since they need Ray
        raise UserError(Problem("--what", what, f"one of {', '.join(known)}"))
    write = _WRITERS[_format(format, output)]
    schema, rows = TABLES[what]
    with _opened(output) as file:
        return write(rows(source), schema, file)


def write_parquet(rows: Iterable[Row], schema: pa.Schema, output: Path) -> int:
    """Writes ``output``, whole or not at all, and returns its number of rows. Raises ``UserError``."""
    with _opened(output) as file:
        return _write_parquet(rows, schema, file)


def _format(told: str | None, output: Path) -> str:
    """What was told, or what the suffix names; the two never contradict each other."""
    if told not in (None, *_WRITERS):
        raise UserError(Problem("--format", told, f"one of {', '.join(_WRITERS)}"))
    suffix = output.suffix.lower().removeprefix(".")
    if suffix not in _WRITERS:
        if told is not None:
            return told
        endings = " or ".join(f".{name}" for name in _WRITERS)
        cure = f"its suffix names no format: end it with {endings}, or add --format"
        raise UserError(Problem("--output", str(output), cure))
    if told not in (None, suffix):
        cure = f"contradicts the suffix of {output}: leave --format out, or end the file with .{told}"
        raise UserError(Problem("--format", told, cure))
    return suffix


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The output, whose mistakes are the user's."""
    if not path.parent.is_dir():
        raise UserError(Problem("--output", str(path), f"there is no folder {path.parent}; make it first"))
    if path.is_dir():
        raise UserError(Problem("--output", str(path), "is a folder; name a file"))
    try:
        with whole_file(path) as file:
            yield file
    except OSError as error:
        raise UserError(Problem("--output", str(path), f"cannot be written: {error}")) from error


def _write_jsonl(rows: Iterable[Row], schema: pa.Schema, file: BinaryIO) -> int:
    count = 0
    for row in rows:
        file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        count += 1
    return count


def _write_parquet(rows: Iterable[Row], schema: pa.Schema, file: BinaryIO) -> int:
    count, pending = 0, list[pa.RecordBatch]()
    left = iter(rows)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while taken := list(islice(left, ROWS_CONVERTED)):
            pending.append(pa.RecordBatch.from_pylist(taken, schema))
            count += len(taken)
            if sum(batch.nbytes for batch in pending) >= ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(pending, schema))
                pending.clear()
        if pending:
            writer.write_table(pa.Table.from_batches(pending, schema))
    return count


_WRITERS: Final[Mapping[str, Callable[[Iterable[Row], pa.Schema, BinaryIO], int]]] = {
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}
