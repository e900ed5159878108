"""Errors on their way through Ray: how ours come out as themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayTaskError

from al_ray.errors import AlRayError


@contextmanager
def unwrapped() -> Iterator[None]:
    """An ``AlRayError`` that an actor raised is raised as itself, not wrapped in a ``RayTaskError``."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, AlRayError):
            raise error.cause from None
        raise
