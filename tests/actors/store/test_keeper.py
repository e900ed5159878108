"""A store whose process does not answer is started anew, and nobody notices but by waiting."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from al_ray.actors.store import keeper as store_keeper
from al_ray.actors.store.keeper import StoreKeeper
from al_ray.types import RolloutRequest, Task
from tests.processes import wait_until_ended


async def test_calls_of_a_store_that_is_stopped_are_answered_by_the_next(
    ray_cluster: None, store_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had acknowledged is there."""
    monkeypatch.setattr(store_keeper, "_PING_EVERY", 0.2)
    monkeypatch.setattr(store_keeper, "_ANSWER_SECONDS", 1.0)
    keeper = StoreKeeper(store_place, None, {})
    await keeper.start()
    store = keeper.store
    await store.enqueue.remote([RolloutRequest("a", "batch", "group", Task("t", {}))])
    pid = await store.__ray_call__.remote(lambda _: os.getpid())
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(60):
        await store.enqueue.remote([RolloutRequest("b", "batch", "group", Task("t", {}))])
        claims = await store.claim.remote("worker", "claim", 5, 1.0)
    assert {claim.request.id for claim in claims} == {"a", "b"}
    assert keeper.failure() is None
    wait_until_ended(pid)
    await keeper.stop(0.1)
