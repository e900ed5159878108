"""Errors on their way through Ray: how ours come out as themselves, and how it tells that an actor died."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from al_ray.errors import AlRayError

DIED: Final = (RayActorError, OutOfMemoryError)
"""By which a call of an actor tells that it is dead or out of reach: Ray has an error of its own for those
that it ends where a node's memory is full."""


def at_its_start(error: BaseException) -> bool:
    """Whether an actor could not even be made, which is told of by it: so would the next."""
    return isinstance(error, RayActorError) and error.actor_init_failed


def in_brief(error: BaseException) -> str:
    """The line that says most: the last of a traceback, and the first of Ray's words about a full memory."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0 if isinstance(error, OutOfMemoryError) else -1].strip()


@contextmanager
def unwrapped() -> Iterator[None]:
    """An ``AlRayError`` that an actor raised is raised as itself, not wrapped in a ``RayTaskError``."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, AlRayError):
            raise error.cause from None
        raise
