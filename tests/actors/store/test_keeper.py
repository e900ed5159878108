"""A store whose process does not answer is started anew, and nobody notices but by waiting."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from al_ray.actors.store import keeper as store_keeper
from al_ray.actors.store.keeper import StoreKeeper
from al_ray.database.backends import sqlite_url
from al_ray.database.query import Query
from al_ray.database.reader import Records
from al_ray.errors import StoreError
from al_ray.types import RolloutRequest, Task
from tests.support.machines.processes import wait_until_ended


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


async def test_a_store_that_is_stopped_as_it_starts_is_started_anew(
    ray_cluster: None, store_place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"

    class Late(store_keeper.Store):
        async def ping(self) -> None:
            if not begun.exists():
                begun.touch()
                os.kill(os.getpid(), signal.SIGSTOP)
            await super().ping()

    monkeypatch.setattr(store_keeper, "Store", Late)
    monkeypatch.setattr(store_keeper, "_START_SECONDS", 20.0)
    keeper = StoreKeeper(store_place, None, {})
    await keeper.start()
    assert begun.exists()
    await keeper.store.enqueue.remote([RolloutRequest("a", "batch", "group", Task("t", {}))])
    await keeper.stop(0.1)


def _limit_files(_: Any, size: int) -> None:
    """That the process may write, as a full disk would; beyond it the system refuses, and the signal that it
    sends is ignored by Python."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def test_a_store_whose_disk_takes_nothing_more_says_so_with_its_place_and_the_room_that_is_left(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To whoever writes, and, as why it cannot be kept, to the run; what was acknowledged stays."""
    monkeypatch.setattr(store_keeper, "_PING_EVERY", 0.2)
    file = tmp_path / "store.sqlite"
    keeper = StoreKeeper(sqlite_url(file), None, {})
    await keeper.start()
    await keeper.store.enqueue.remote([RolloutRequest("a", "batch", "group", Task("t", {}))])
    await keeper.store.__ray_call__.remote(_limit_files, Path(f"{file}-wal").stat().st_size)
    with pytest.raises(StoreError, match=r"GiB are free there") as told:
        await keeper.store.enqueue.remote([RolloutRequest("b", "batch", "group", Task("t", {}))])
    async with asyncio.timeout(60):
        while (failure := keeper.failure()) is None:
            await asyncio.sleep(0.05)
    assert isinstance(failure, StoreError)
    assert str(failure).startswith(f"the store {file} cannot be written: ")
    assert str(failure) in str(told.value)
    await keeper.stop(0.1)
    records = Records(sqlite_url(file))
    assert [rollout.id for rollout in records.find_rollouts(Query()).items] == ["a"]
    records.close()
