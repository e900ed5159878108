"""Engines that nobody waits for: they come with nodes, and go with them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event

import pytest

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.weights.update import WeightUpdate
from al_ray.machines.placement import OwnSeat, SharedSeat
from al_ray.machines.plan import Bundle
from tests.actors.engine.pool.faulty import FaultyEngine
from tests.support.machines.nodes import joined
from tests.support.models.engine_inputs import engine_spec

CORES = 3
"""More than the cluster's first node has."""


async def with_one_more(folder: Path) -> EnginePool:
    """One engine is there, and one more comes."""
    seat = SharedSeat({"num_cpus": 0})
    pool = EnginePool(engine_spec(folder), [seat], [seat], engine_class=FaultyEngine)
    await pool.start()
    return pool


async def answering(pool: EnginePool, count: int) -> list[int]:
    """The policy versions of the engines that may be asked, as soon as there are so many."""
    async with asyncio.timeout(120):
        while len(pool.admitted()) != count:
            assert pool.failure() is None
            await asyncio.sleep(0.1)
    return [await engine.policy_version.remote() for engine in pool.admitted()]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("al_ray.actors.engine.pool._PROBE_SECONDS", 0.2)


@pytest.fixture
def own_seat(ray_cluster: None) -> Iterator[OwnSeat]:
    """That the cluster has no room for."""
    seat = OwnSeat(Bundle(("engine 1",), CORES, 0, None), "elastic")
    yield seat
    seat.release()


@pytest.mark.slow
async def test_an_engine_comes_with_a_node_holds_the_weights_of_then_and_goes_with_it(
    tmp_path: Path, joining: Mapping[str, str], own_seat: OwnSeat
) -> None:
    """Nobody waits for it: neither the start nor a weight change."""
    seats = [SharedSeat({"num_cpus": 0})]
    pool = EnginePool(engine_spec(tmp_path), seats, [own_seat], engine_class=FaultyEngine)
    async with asyncio.timeout(60):
        await pool.start()
        await pool.update(WeightUpdate(1, path="nowhere"))
    assert await answering(pool, 1) == [1]
    for version in (2, 3):
        with joined(joining["RAY_ADDRESS"], tmp_path, CORES):
            assert await answering(pool, 2) == [version - 1] * 2
            await pool.update(WeightUpdate(version, path="nowhere"))
            assert await answering(pool, 2) == [version] * 2
        assert await answering(pool, 1) == [version]
    await pool.shutdown()


async def test_an_engine_leaves_its_room_to_those_that_need_it_and_comes_back(
    tmp_path: Path, ray_cluster: None
) -> None:
    """First it is given no more calls, then it is ended."""
    wanted = Event()
    seat = OwnSeat(Bundle(("engine 1",), 1, 0, None), "elastic", wanted.is_set)
    here = SharedSeat({"num_cpus": 0})
    pool = EnginePool(engine_spec(tmp_path), [here], [seat], engine_class=FaultyEngine)
    await pool.start()
    assert await answering(pool, 2) == [0, 0]
    wanted.set()
    await pool.retire()
    assert len(pool.engines()) == 2 and len(pool.admitted()) == 1 and seat.has_room()
    await pool.retire()
    assert len(pool.engines()) == 1
    await asyncio.sleep(2)  # a few looks for room
    assert not seat.has_room()
    wanted.clear()
    assert await answering(pool, 2) == [0, 0]
    await pool.shutdown()
    seat.release()


async def test_weights_change_while_an_engine_that_joins_still_loads(
    tmp_path: Path, ray_cluster: None
) -> None:
    """The change waits for it no more than for its own; it is admitted with the new ones."""
    pool = await with_one_more(tmp_path)
    (tmp_path / "start.waits").touch()
    await pool.update(WeightUpdate(1, path="nowhere"))
    (tmp_path / "load.waits").touch()
    async with asyncio.timeout(60):
        while not (tmp_path / "start waits").exists():
            await asyncio.sleep(0.05)
        (tmp_path / "start waits").unlink()
        while not (tmp_path / "load waits").exists():
            await asyncio.sleep(0.05)
        await pool.update(WeightUpdate(2, path="nowhere"))
        assert await answering(pool, 1) == [2]
        (tmp_path / "load waits").unlink()
    assert await answering(pool, 2) == [2, 2]
    await pool.shutdown()


async def test_one_that_cannot_start_is_tried_again_and_ends_nothing(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node may lack what the others have."""
    monkeypatch.setattr("al_ray.actors.engine.pool.EXTRA_SECONDS", 0.2)
    monkeypatch.setattr("al_ray.actors.engine.pool.MAX_LOST", 0)
    pool = await with_one_more(tmp_path)
    for number in range(3):
        (tmp_path / f"start.{number}.raises").touch()
    assert await answering(pool, 2) == [0, 0]
    assert not list(tmp_path.iterdir())
    await pool.shutdown()


async def test_weights_that_are_sent_admit_those_that_the_learners_have_met(
    tmp_path: Path, ray_cluster: None
) -> None:
    """Another one that has come since holds older ones."""
    pool = await with_one_more(tmp_path)
    met = pool.engines()
    assert await answering(pool, 2) == [0, 0]

    async def send() -> None:
        """Whatever reaches the engines."""

    await pool.update(WeightUpdate(1), send, met)
    assert pool.admitted() == met and pool.unserved()
    await pool.update(WeightUpdate(2), send, pool.engines())
    assert await answering(pool, 2) == [2, 2] and not pool.unserved()
    await pool.shutdown()
