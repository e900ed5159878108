"""Whatever befalls an engine, at whatever moment: the pool goes on, and nothing of that engine is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from ray.exceptions import RayTaskError

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.weights.update import WeightUpdate
from al_ray.errors import EngineUnavailableError
from al_ray.machines.placement import SharedSeat
from tests.actors.engine.faulty import FaultyEngine
from tests.actors.engine_inputs import engine_spec

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANSWER_SECONDS = 2.0


def pool_of(count: int, faults: Path) -> EnginePool:
    seats = [SharedSeat({"num_cpus": 0})] * count
    return EnginePool(engine_spec(faults), seats, engine_class=FaultyEngine, answer_seconds=ANSWER_SECONDS)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(faults: Path, ray_cluster: None) -> AsyncIterator[EnginePool]:
    """Two engines."""
    pool = EnginePool(
        engine_spec(faults),
        [SharedSeat({"num_cpus": 0})] * 2,
        engine_class=FaultyEngine,
        answer_seconds=ANSWER_SECONDS,
    )
    await pool.start()
    yield pool
    await pool.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("al_ray.actors.engine.pool._PROBE_SECONDS", 0.1)


def next_update(pool: EnginePool) -> WeightUpdate:
    """It names a file that a fake never opens."""
    return WeightUpdate(1 if pool._update is None else pool._update.version + 1, path="nowhere")


async def processes(pool: EnginePool) -> dict[Any, int]:
    return {engine: await engine.pid.remote() for engine in pool.engines()}


async def lost(pool: EnginePool, before: dict[Any, int], count: int) -> None:
    """So many of the engines that were there have been replaced, and nothing is left of them."""
    async with asyncio.timeout(60):
        while len(ended := before.keys() - set(pool.engines())) < count:
            await asyncio.sleep(0.05)
        assert len(ended) == count
        while any(Path(f"/proc/{before[engine]}").exists() for engine in ended):
            await asyncio.sleep(0.05)


async def all_admitted(pool: EnginePool, version: int) -> list[Any]:
    """The pool's engines, once both are admitted, which all hold ``version``."""
    async with asyncio.timeout(60):
        while len(pool.admitted()) < 2:
            assert pool.failure() is None
            await asyncio.sleep(0.05)
    assert [await engine.policy_version.remote() for engine in pool.admitted()] == [version] * 2
    return pool.admitted()


@pytest.mark.parametrize("fault", ["dies", "is_stopped", "hangs"])
@pytest.mark.parametrize("moment", ["ping", "pause", "load", "resume"])
async def test_an_engine_that_fails_is_replaced_while_the_other_goes_on(
    pool: EnginePool, faults: Path, moment: str, fault: str
) -> None:
    """Also as weights change: the other has them at once, and the new one from its first call on."""
    update = next_update(pool)
    before = await processes(pool)
    (faults / f"{moment}.{fault}").touch()
    if moment == "ping":
        async with asyncio.timeout(20):
            while (faults / f"ping.{fault}").exists():
                await asyncio.sleep(0.05)
    async with asyncio.timeout(20):
        await pool.update(update)
    assert pool.admitted()
    await lost(pool, before, 1)
    await all_admitted(pool, update.version)


async def test_when_all_are_lost_as_weights_change_the_update_waits_for_new_ones(
    pool: EnginePool, faults: Path
) -> None:
    update = next_update(pool)
    before = await processes(pool)
    (faults / "pause.dies").touch()
    (faults / "pause.is_stopped").touch()
    async with asyncio.timeout(60):
        await pool.update(update)
    await all_admitted(pool, update.version)
    await lost(pool, before, 2)


async def test_engines_lost_at_earlier_weight_changes_do_not_count(pool: EnginePool, faults: Path) -> None:
    """Also where each change lost all of them."""
    for _ in range(3):
        update = next_update(pool)
        before = await processes(pool)
        for engine in range(2):
            (faults / f"pause.{engine}.dies").touch()
        async with asyncio.timeout(60):
            await pool.update(update)
        await all_admitted(pool, update.version)
        await lost(pool, before, 2)
    assert pool.failure() is None


async def test_an_engine_that_cannot_come_up_is_tried_again(pool: EnginePool, faults: Path) -> None:
    """Also where it says why: the memory of the one before may not be free yet."""
    update = next_update(pool)
    (faults / "start.dies").touch()
    (faults / "start.raises").touch()
    (faults / "load.is_stopped").touch()
    await pool.update(update)
    await all_admitted(pool, update.version)
    assert not list(faults.iterdir())


async def test_weights_that_live_engines_refuse_end_the_update_with_their_word(
    pool: EnginePool, faults: Path
) -> None:
    """The current weights stay, and new engines hold them."""
    current = next_update(pool)
    await pool.update(current)
    for engine in range(2):
        (faults / f"load.{engine}.raises").touch()
    with pytest.raises(EngineUnavailableError, match=r"no engine could load it: .*will not do"):
        await pool.update(next_update(pool))
    await all_admitted(pool, current.version)


async def test_engines_that_cannot_be_kept_alive_end_the_waiting_with_their_number(
    faults: Path, ray_cluster: None
) -> None:
    pool = EnginePool(
        engine_spec(faults),
        [SharedSeat({"num_cpus": 0})],
        engine_class=FaultyEngine,
        answer_seconds=ANSWER_SECONDS,
    )
    await pool.start()
    for engine in range(6):
        (faults / f"pause.{engine}.dies").touch()
    async with asyncio.timeout(60):
        with pytest.raises(
            EngineUnavailableError, match="6 engines died since policy version 1 was admitted"
        ):
            await pool.update(WeightUpdate(1, path="nowhere"))
    await pool.shutdown()


async def test_an_engine_that_cannot_start_ends_all_with_its_error(faults: Path, ray_cluster: None) -> None:
    pool = EnginePool(
        engine_spec(faults),
        [SharedSeat({"num_cpus": 0})] * 2,
        engine_class=FaultyEngine,
        answer_seconds=ANSWER_SECONDS,
    )
    (faults / "start.raises").touch()
    with pytest.raises(RayTaskError, match="start will not do"):
        await pool.start()
    assert pool.engines() == []


async def test_shutting_down_does_not_wait_for_an_engine_that_is_stopped(
    faults: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_ray.actors.engine.pool._SHUTDOWN_SECONDS", 1.0)
    pool = EnginePool(
        engine_spec(faults),
        [SharedSeat({"num_cpus": 0})],
        engine_class=FaultyEngine,
        answer_seconds=ANSWER_SECONDS,
    )
    await pool.start()
    before = await processes(pool)
    (faults / "shutdown.is_stopped").touch()
    async with asyncio.timeout(10):
        await pool.shutdown()
    await lost(pool, before, 1)
