"""Real actors for the tests of those that speak with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def store_place(tmp_path: Path) -> str:
    """The URL of this test's own database."""
    from al_ray.sql import sqlite_url

    return sqlite_url(tmp_path / "store.sqlite")


@pytest.fixture
def start_store(ray_cluster: None, store_place: str) -> Iterator[Callable[..., Any]]:
    """Starts a store actor on this test's own database; more arguments are its constructor's."""
    import ray

    from al_ray.actors.store import STORE_OPTIONS, Store

    with ExitStack() as stack:

        def start(**arguments: Any) -> Any:
            store = ray.remote(Store).options(**STORE_OPTIONS).remote(store_place, **arguments)
            stack.callback(ray.kill, store)
            return store

        yield start
