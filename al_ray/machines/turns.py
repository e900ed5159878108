"""One process at a time makes what several need; the others wait for it, and say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from al_ray.errors import Problem, UserError

_TOLD_AFTER: Final = 3.0
_HOUR: Final = 3600.0
"""The largest model is converted in less, from a slow disk too."""


@contextmanager
def turn(where: str, folder: Path, tell: Callable[[str], None], *, hours: int = 1) -> Iterator[None]:
    """Inside, nobody else makes what will be in ``folder``, which the user knows by ``where``. Raises
    ``UserError`` where another process does so for so many hours: it is stopped, or stuck."""
    lock = folder.with_name(f".{folder.name}.lock")
    held = FileLock(lock)
    try:
        try:
            held.acquire(timeout=_TOLD_AFTER)
        except Timeout:
            tell(f"waiting for another process that prepares {folder}")
            held.acquire(timeout=hours * _HOUR)
    except Timeout as error:
        cure = (
            f"another process has been preparing it for {hours} h: `fuser {lock}` names it; end it, or wait"
        )
        raise UserError(Problem(where, str(folder), cure)) from error
    try:
        yield
    finally:
        held.release()
