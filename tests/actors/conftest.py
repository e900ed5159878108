"""Real actors for the tests of those that speak with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def start_store(ray_cluster: None, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a store actor on this test's own database; more arguments are its constructor's."""
    import ray

    from al_ray.actors.store import STORE_OPTIONS, Store
    from al_ray.dialects import sqlite_url

    with ExitStack() as stack:

        def start(**arguments: Any) -> Any:
            url = sqlite_url(tmp_path / "store.sqlite")
            store = ray.remote(Store).options(**STORE_OPTIONS).remote(url, **arguments)
            stack.callback(ray.kill, store)
            return store

        yield start
