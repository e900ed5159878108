"""Nodes that Ray takes away, real ones: their engines end their calls, and others are put elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.line import Line, LineLostError
from al_ray.actors.weights.update import WeightUpdate
from al_ray.machines import cluster
from al_ray.machines.placement import OwnSeat, draining
from al_ray.machines.plan import Bundle
from tests.actors.engine.pool.faulty import FaultyEngine
from tests.support.machines.nodes import drain, joined
from tests.support.models.engine_inputs import engine_spec

pytestmark = pytest.mark.slow

CORES = 3
"""More than the cluster's first node has."""
NODE_SECONDS = 30.0
"""From the notice to the end of a node whose engine does not end its calls. It is ended after 3 s: a busy
machine has the others to do so."""


@pytest.fixture
async def pool(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[EnginePool]:
    """Of one engine, which is not started. None may be lost."""
    monkeypatch.setattr("al_ray.actors.engine.pool._PROBE_SECONDS", 0.2)
    monkeypatch.setattr("al_ray.actors.engine.pool.MAX_LOST", 0)
    monkeypatch.setattr("al_ray.machines.placement._BEFORE_SECONDS", NODE_SECONDS - 3)
    seat = OwnSeat(Bundle(("engine 0",), CORES, 0, 0), "draining")
    pool = EnginePool(engine_spec(tmp_path), [seat], engine_class=FaultyEngine)
    yield pool
    await pool.shutdown()
    seat.release()


async def looked(pool: EnginePool) -> None:
    """What the policy does every few seconds, once."""
    pool.spare(await asyncio.to_thread(draining))
    await pool.retire()


async def admitted_on(pool: EnginePool, node: str, seconds: float = 120) -> Any:
    """The pool's engine, when it is there and may be asked."""
    async with asyncio.timeout(seconds):
        while not pool.admitted():
            assert pool.failure() is None
            await asyncio.sleep(0.1)
    [engine] = pool.admitted()
    assert await engine.node.remote() == node
    return engine


async def test_an_engine_ends_its_calls_and_leaves_a_node_that_is_drained(
    pool: EnginePool, tmp_path: Path, joining: Mapping[str, str]
) -> None:
    """The next one is on another node, with the weights of then. One whose calls do not end in time is ended
    before its node is: nobody waits for the node's death to ask elsewhere. Where there is no room, the next
    engine waits for a node."""
    address = joining["RAY_ADDRESS"]
    with joined(address, tmp_path, CORES) as (first, _):
        await pool.start()
        await pool.update(WeightUpdate(1, path="nowhere"))
        engine = await admitted_on(pool, first)
        line = await Line.to(engine)
        asked = asyncio.create_task(line.ask("answer_when_released"))
        while await engine.under_way.remote() == 0:
            await asyncio.sleep(0.05)
        with joined(address, tmp_path, CORES) as (second, _):
            drain(address, first, 600)
            await looked(pool)
            assert pool.admitted() == [] and pool.engines() == [engine]
            await looked(pool)
            assert pool.engines() == [engine] and not asked.done()
            (tmp_path / "released").touch()
            assert await asked == "released"
            await looked(pool)
            engine = await admitted_on(pool, second)
            assert await engine.policy_version.remote() == 1
            async with asyncio.timeout(60):  # as nothing holds it any more
                while first in cluster.node_ids():
                    await asyncio.sleep(0.2)

            (tmp_path / "released").unlink()
            line = await Line.to(engine)
            asked = asyncio.create_task(line.ask("answer_when_released"))
            ends = time.time() + NODE_SECONDS
            drain(address, second, NODE_SECONDS)
            while pool.engines():
                await looked(pool)
                await asyncio.sleep(0.2)
            assert time.time() < ends
            with pytest.raises(LineLostError):
                await asked
            await asyncio.sleep(1)
            assert pool.engines() == [] and pool.failure() is None
            with joined(address, tmp_path, CORES) as (third, _):
                engine = await admitted_on(pool, third)
                assert await engine.policy_version.remote() == 1
                await pool.shutdown()
