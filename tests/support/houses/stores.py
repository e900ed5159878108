"""Store actors whose processes several tests have, one after the other: each takes a second to start."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import ray

from al_ray.actors.store.actor import STORE_OPTIONS, Store

_REST_SECONDS: Final = 0.5
"""After which no runner that was killed with its store asks for anything: its end takes a moment. Waiting for
that computes nothing, and another store's start does."""
_IDLE: Final[deque[tuple[float, Any]]] = deque()
"""Actors that are no store any more, of the one cluster that this process starts, and since when."""


@contextmanager
def own_store(url: str, **arguments: Any) -> Iterator[Any]:
    """In a process of its own, for whoever ends that or changes in it more than the store."""
    store = ray.remote(Store).options(**STORE_OPTIONS).remote(url, **arguments)
    yield store
    ray.kill(store)


@contextmanager
def lent_store(url: str, **arguments: Any) -> Iterator[Any]:
    """In a process that others had before, and will have; not where an error ends the context."""
    if _IDLE:
        since, store = _IDLE.popleft()
        time.sleep(max(0.0, since + _REST_SECONDS - time.monotonic()))
        ray.get(store.__ray_call__.remote(lambda actor: actor.__init__(url, **arguments)), timeout=60)
    else:
        store = ray.remote(Store).options(**STORE_OPTIONS).remote(url, **arguments)
    process = store.__ray_call__.remote(lambda _: os.getpid())
    yield store
    assert ray.get(process) == _left(store), "whoever ends a store's process must have one of its own"
    _IDLE.append((time.monotonic(), store))


def _left(store: Any) -> int:
    """Its process, in which nothing is left of what it was."""

    def leave(actor: Any) -> int | None:
        """Not while it writes: the rest of that would go to the next one's database."""
        if actor._commits._committing is not None and not actor._commits._committing.done():
            return None
        if actor._expiring is not None:
            actor._expiring.cancel()
        if (database := actor.__dict__.get("_database")) is not None:
            database.close()
        actor.__dict__.clear()
        return os.getpid()

    while (process := ray.get(store.__ray_call__.remote(leave), timeout=60)) is None:
        time.sleep(0.01)
    return int(process)
