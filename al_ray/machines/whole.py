"""Files and folders that are whole or not there, whenever the process or the machine dies.

Each is written beside its place, and renamed once all of it is safely on disk. What was there before
stays until then, and for good where the writing fails.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from al_ray.errors import DiskError

_PARTIAL: Final = ".partial"
_REPLACED: Final = ".replaced"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yields an empty file to fill; it takes the place of ``path`` at the end."""
    # Others may write it too: on a shared disk also processes of other machines, with the same numbers.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_file_of_run(path: Path) -> Iterator[BinaryIO]:
    """``whole_file``. Raises ``DiskError`` where the disk does not take it: what a run has recorded stays."""
    try:
        with whole_file(path) as file:
            yield file
    except OSError as error:
        raise DiskError.of(path, "it", error) from error


def is_partial(path: Path) -> bool:
    """Whether it is what whoever was killed as they wrote a file or a folder left of it."""
    return path.name.startswith(".") and path.name.endswith((_PARTIAL, _REPLACED))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; it takes the place of ``path`` at the end, or of what that links to.

    One writer at a time: what one that was killed left behind is removed by the next.
    """
    path = path.resolve()
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    replaced = path.with_name(f".{path.name}{_REPLACED}")
    _put_back(replaced, path)
    for leftover in (partial, replaced):
        _remove(leftover)
    partial.mkdir(parents=True)
    try:
        yield partial
        for written in (*partial.rglob("*"), partial):
            _sync(written)
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
        _sync(path.parent)
    finally:
        _put_back(replaced, path)
        _remove(partial)
    _remove(replaced)


def _put_back(replaced: Path, path: Path) -> None:
    """Where nothing has taken the place of what was there."""
    if replaced.exists() and not path.exists():
        replaced.rename(path)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
