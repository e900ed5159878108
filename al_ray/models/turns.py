"""One process at a time makes a model ready that several need; the others wait for it, and say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from al_ray.errors import Problem, RecipeError

_TOLD_AFTER: Final = 3.0
_SECONDS: Final = 3600.0
"""The largest model is converted or merged in less, from a slow disk too."""


@contextmanager
def turn(folder: Path, lock: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Inside, nobody else makes what will be in ``folder``. Raises ``RecipeError`` where another process does
    so for too long: it is stopped, or stuck."""
    held = FileLock(lock)
    try:
        try:
            held.acquire(timeout=_TOLD_AFTER)
        except Timeout:
            tell(f"waiting for another process that prepares {folder}")
            held.acquire(timeout=_SECONDS)
    except Timeout as error:
        cure = f"another process has been preparing it for more than {_SECONDS / 60:.0f} minutes: "
        cure += f"`fuser {lock}` names it; end it, or wait on"
        raise RecipeError(Problem("model.path", str(folder), cure)) from error
    try:
        yield
    finally:
        held.release()
