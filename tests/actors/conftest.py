"""Real actors for the tests of those that speak with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
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
    """Starts a store actor on this test's own database; more arguments are its constructor's. Its process is
    lent, unless it is to be the test's ``own``."""
    from tests.support.houses.stores import lent_store, own_store

    with ExitStack() as stack:

        def start(*, own: bool = False, **arguments: Any) -> Any:
            return stack.enter_context((own_store if own else lent_store)(store_place, **arguments))

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


@pytest.fixture(scope="session")
def left_alive(ray_cluster: None) -> dict[str, Any]:
    """Engines that a test might have ended and has not, by name."""
    return {}


@pytest.fixture
async def mortal(house: Any, left_alive: dict[str, Any]) -> AsyncIterator[tuple[Any, Any]]:
    """Engines a and b of this test alone, admitted; nobody has asked them anything."""
    from ray.exceptions import RayActorError

    from tests.support.houses.gateway import engine

    engines = tuple(left_alive.pop(name, None) or engine(name) for name in ("a", "b"))
    await house.admit(*engines)
    yield engines
    await house.admit()
    for name, actor in zip(("a", "b"), engines, strict=True):
        with suppress(RayActorError):
            await actor.begin_anew.remote()
            left_alive[name] = actor
