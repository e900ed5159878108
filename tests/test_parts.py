"""The parts of a run: what cannot go on ends the run with its reason, and is not waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from al_ray import parts
from al_ray.actors.gateway_pool import GatewayPool
from al_ray.actors.runner import RunnerSpec
from al_ray.actors.runner_pool import RunnerPool
from al_ray.actors.store import STORE_OPTIONS, Store
from al_ray.config import AgentSection
from al_ray.errors import EngineUnavailableError, RecipeError
from al_ray.parts import Parts
from al_ray.sql import sqlite_url
from al_ray.types import RolloutRequest, Task
from tests.actors.gateway_house import SPEC

REQUEST = RolloutRequest("r", "b", "g", Task("t", {"do": "meet", "place": "nowhere", "count": 2}))


@asynccontextmanager
async def started(folder: Path, agent: str) -> AsyncIterator[Parts]:
    """Without engines: nothing here makes a call."""
    store = ray.remote(Store).options(**STORE_OPTIONS).remote(sqlite_url(folder / "store.sqlite"))
    gateways = GatewayPool(SPEC, 1, store, {})
    spec = RunnerSpec("runner", AgentSection(run=agent), await gateways.start(), "toy")
    runners = RunnerPool(spec, 1, store, {})
    runners.start()
    none: Any = None
    yield Parts(store, gateways, none, runners, None, 1, pushes_weights=False)
    await runners.stop()
    await gateways.stop()
    ray.kill(store)


async def wait_for(parts: Parts) -> None:
    async with asyncio.timeout(90):
        async for _ in parts.rollouts([REQUEST]):
            raise AssertionError("the rollout cannot end")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_WATCH_SECONDS", 0.2)


async def test_runners_that_cannot_work_end_the_run(ray_cluster: None, tmp_path: Path) -> None:
    async with started(tmp_path, "no_such_package:agent") as made:
        with pytest.raises(RecipeError, match="no_such_package"):
            await wait_for(made)


async def test_engines_that_cannot_be_kept_end_the_run(ray_cluster: None, tmp_path: Path) -> None:
    async def watch() -> None:
        raise EngineUnavailableError("six engines died")

    async with started(tmp_path, "tests.actors.agents:act") as made:
        made.watch = asyncio.create_task(watch())
        with pytest.raises(EngineUnavailableError, match="six engines died"):
            await wait_for(made)
