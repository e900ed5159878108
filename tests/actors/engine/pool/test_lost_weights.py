"""Weights that are gone with the learner that stored them, before all engines have read them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.weights.stored import local_files
from al_ray.actors.weights.update import Transport, WeightUpdate
from al_ray.errors import LearnerLostError, WeightsLostError
from al_ray.machines.placement import SharedSeat
from tests.actors.engine.pool.storing import ReadingEngine, Storing
from tests.support.models.engine_inputs import engine_spec


class Learners:
    """One after the other."""

    def __init__(self, folder: Path, transport: Transport) -> None:
        self._begun = folder, transport
        self._learner = Storing.remote(*self._begun)

    async def publish(self, version: int) -> WeightUpdate:
        self._published: WeightUpdate = await self._learner.publish.remote(version)
        return self._published

    async def replace(self) -> None:
        """By one that clears away what the last has left, once that has ended. Ray gives what it had stored
        until it notices the end."""
        process = psutil.Process(await self._learner.__ray_call__.remote(lambda self: os.getpid()))
        process.kill()
        await asyncio.to_thread(process.wait, 60)
        self._learner = Storing.remote(*self._begun)
        await self._learner.__ray_ready__.remote()
        async with asyncio.timeout(60):
            while await is_there(self._published):
                await asyncio.sleep(0.05)


async def is_there(update: WeightUpdate) -> bool:
    try:
        return bool([path async for path in local_files(update)])
    except WeightsLostError:
        return False


@pytest.fixture(params=["shared_memory", "object_store"])
def learners(request: pytest.FixtureRequest, ray_cluster: None, tmp_path: Path) -> Learners:
    return Learners(tmp_path, request.param)


@pytest.fixture
async def pool(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[EnginePool]:
    """One engine; none may be lost by its own fault."""
    monkeypatch.setattr("al_ray.actors.engine.pool._PROBE_SECONDS", 0.1)
    monkeypatch.setattr("al_ray.actors.engine.pool.MAX_LOST", 1)
    pool = EnginePool(engine_spec(tmp_path), [SharedSeat({"num_cpus": 0})], engine_class=ReadingEngine)
    await pool.start()
    yield pool
    await pool.shutdown()


async def kill(pool: EnginePool) -> None:
    """Its engine."""
    [engine] = pool.engines()
    os.kill(await engine.pid.remote(), signal.SIGKILL)
    async with asyncio.timeout(60):
        while pool.engines() == [engine]:
            await asyncio.sleep(0.05)


async def test_an_engine_that_comes_too_late_for_the_weights_waits_for_others(
    pool: EnginePool, learners: Learners
) -> None:
    """However long: nobody is to blame. It is not admitted, for it holds those of the model's folder."""
    await pool.update(await learners.publish(1))
    assert not pool.unserved()
    await learners.replace()
    later = await learners.publish(1)
    await kill(pool)
    async with asyncio.timeout(60):
        while not (pool.unserved() and pool.engines()):
            assert pool.failure() is None
            await asyncio.sleep(0.05)
    assert pool.admitted() == []
    await pool.update(later)
    [engine] = pool.admitted()
    assert await engine.policy_version.remote() == 1
    assert not pool.unserved() and pool.failure() is None


async def test_weights_that_are_gone_before_an_engine_has_them_tell_that_their_learner_is_lost(
    pool: EnginePool, learners: Learners, tmp_path: Path
) -> None:
    """Whether an engine says it that is there, or one that comes in its place."""
    update = await learners.publish(1)
    await learners.replace()
    with pytest.raises(LearnerLostError, match="policy version 1 are gone with the learner that stored them"):
        await pool.update(update)
    (tmp_path / "pause.dies").touch()
    async with asyncio.timeout(60):
        await pool.one()
        with pytest.raises(LearnerLostError, match="policy version 1 are gone with their learner"):
            await pool.update(update)
    assert not (tmp_path / "pause.dies").exists() and pool.failure() is None
