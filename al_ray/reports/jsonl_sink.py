"""``metrics.jsonl``: one line a call, ``{"step": 3, "time": 1700000000.0, "reward/mean": 0.5, ...}``.

A line is on its way to the disk when ``log`` returns; it raises ``DiskError`` where that takes none. A value
that is not finite is ``null``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import orjson

from al_ray.errors import DiskError, Problem, UserError
from al_ray.machines.whole import whole_file_of_run
from al_ray.types import Rollout

FILE_NAME: Final = "metrics.jsonl"
_ALWAYS: Final = ("step", "time")
"""Are numbers, never null."""
_SHOWN: Final = 80
"""Bytes of a line that is none."""


class JsonlSink:
    """Appends to the file in ``folder``; what lies after step ``resume_from`` is dropped first."""

    def __init__(self, folder: Path, resume_from: int | None) -> None:
        self._folder = folder
        self._file = self._beginning([] if resume_from is None else _until(folder, resume_from))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        line = memoryview(_line({"step": step, "time": time.time(), **values}))
        whole = os.fstat(self._file.fileno()).st_size
        try:
            while line:  # of a disk that is nearly full a part is taken
                line = line[self._file.write(line) :]
        except OSError as error:
            with suppress(OSError):  # or the next line would go on in what there is of this one
                os.ftruncate(self._file.fileno(), whole)
            raise DiskError.of(self._folder / FILE_NAME, f"step {step}", error) from error

    def log_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None:
        """Nothing: the store has them whole."""

    def rewind(self, step: int) -> None:
        self._file.close()
        self._file = self._beginning(_until(self._folder, step))

    def close(self, ok: bool) -> None:
        self._file.close()

    def _beginning(self, lines: Sequence[Mapping[str, Any]]) -> IO[bytes]:
        path = self._folder / FILE_NAME
        with whole_file_of_run(path) as file:
            file.writelines(map(_line, lines))
        return path.open("ab", buffering=0)


def _until(folder: Path, step: int) -> list[dict[str, Any]]:
    return [line for line in read(folder) if line["step"] <= step]


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of the run in ``folder``, none if there is no file.

    A last line without its newline was cut off when the run was killed, and is left out. Raises ``UserError``
    at any other that is none of metrics: somebody has edited the file, or a disk was full or damaged; and
    where the file cannot be read.
    """
    path = folder / FILE_NAME
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(Problem("metrics", str(path), f"cannot be read: {error.strerror}")) from error
    return [_read(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _read(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = orjson.loads(line)
        wrong = _wrong(found)
    except orjson.JSONDecodeError as error:
        wrong = str(error)
    if wrong is None:
        return found
    text = line[:_SHOWN].decode("utf-8", "replace")
    raise UserError(Problem(where, text, f"no line of metrics: {wrong}; mend or remove it"))


def _wrong(found: Any) -> str | None:
    """Of what a line holds."""
    if not isinstance(found, dict) or "step" not in found:
        return 'it has no number "step"'
    for name, value in found.items():
        if not isinstance(value, int | float) and (value is not None or name in _ALWAYS):
            return f'its "{name}" is no number'
    return None


def _line(values: Mapping[str, Any]) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
