"""Real actors for the tests of those that speak with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def store_place(tmp_path: Path) -> str:
    """The URL of this test's own database."""
    from al_ray.database.backends import sqlite_url

    return sqlite_url(tmp_path / "store.sqlite")


@pytest.fixture
def start_store(ray_cluster: None, store_place: str) -> Iterator[Callable[..., Any]]:
    """Starts a store actor on this test's own database; more arguments are its constructor's."""
    import ray

    from al_ray.actors.store.actor import STORE_OPTIONS, Store

    with ExitStack() as stack:

        def start(**arguments: Any) -> Any:
            store = ray.remote(Store).options(**STORE_OPTIONS).remote(store_place, **arguments)
            stack.callback(ray.kill, store)
            return store

        yield start


@pytest.fixture(scope="session")
def house(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A gateway and a store for all tests that end neither."""
    from tests.support.houses.gateway import open_house

    with open_house(tmp_path_factory.mktemp("house")) as opened:
        yield opened


@pytest.fixture(scope="session")
def engine_a(ray_cluster: None) -> Iterator[Any]:
    import ray

    from tests.support.houses.gateway import engine

    actor = engine("a")
    yield actor
    ray.kill(actor)


@pytest.fixture
async def served(house: Any, engine_a: Any) -> Any:
    """The house, by engine a alone."""
    await house.admit(engine_a)
    return house


@pytest.fixture
async def mortal(house: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Engines a and b of this test alone, admitted."""
    import ray

    from tests.support.houses.gateway import engine

    engines = engine("a"), engine("b")
    await house.admit(*engines)
    yield engines
    await house.admit()
    for actor in engines:
        ray.kill(actor)
