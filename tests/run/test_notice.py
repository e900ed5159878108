"""What Ray takes away is told once, and saved for while it is there; with real nodes: ``test_spot_nodes``."""

from __future__ import annotations

import asyncio
import io
import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from al_ray.reports.console import Console
from al_ray.run.notice import heed


async def test_a_node_that_the_run_lives_on_is_told_once_and_saved_for_while_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of others nothing is said: their engines leave by themselves."""
    going = {"of engines": time.time() + 100}
    monkeypatch.setattr("al_ray.run.notice._LOOK_SECONDS", 0.001)
    asked = saved = 0

    async def homes() -> dict[str, str]:
        nonlocal asked
        asked += 1
        return {"a": "learners", "b": "the driver"}

    async def save() -> None:
        nonlocal saved
        saved += 1

    async def times(count: int, of: Any) -> None:
        async with asyncio.timeout(20):
            before = of()
            while of() < before + count:
                await asyncio.sleep(0.001)

    told = io.StringIO()
    policy: Any = SimpleNamespace(going=going, homes=homes)
    heeding = asyncio.create_task(heed(policy, save, Console(told)))
    await times(3, lambda: asked)
    assert saved == 0 and told.getvalue() == ""
    going["b"] = math.inf
    await times(3, lambda: saved)
    assert told.getvalue().count("Ray takes the node of the driver away at some time") == 1
    going.clear()
    await asyncio.sleep(0.01)
    before = saved
    await asyncio.sleep(0.05)
    assert saved == before
    heeding.cancel()
