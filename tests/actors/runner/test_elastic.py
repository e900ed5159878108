"""Runners that nobody waits for: they come with nodes, end their attempts where Ray takes these away, and are
lost with those that die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.machines.placement import OwnSeat, Seat, SharedSeat, beside_the_driver
from al_ray.machines.plan import Bundle
from al_ray.recipe import AgentSection
from al_ray.types import AttemptStatus, Rollout, RolloutRequest, RolloutStatus, Task
from tests.support.houses.beside_the_store import finished
from tests.support.machines.nodes import drain, joined

StartStore = Callable[..., Any]
CORES = 3
"""More than the cluster's first node has."""
AT_ONCE = 2
"""Attempts of a runner."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("al_ray.actors.runner.pool._LOOK_SECONDS", 0.2)
    monkeypatch.setattr("al_ray.actors.runner.pool.EXTRA_SECONDS", 0.2)


@asynccontextmanager
async def with_one_more(store: Any, agent: str, seat: Seat) -> AsyncIterator[RunnerPool]:
    """One runner is there, and one more comes."""
    section = AgentSection(run=agent, timeout=300.0, concurrency=AT_ONCE)
    spec, here = RunnerSpec("runner", section, ["http://gateway/v1"], "toy"), beside_the_driver()
    pool = RunnerPool(spec, 1, store, here, [seat])
    pool.start()
    yield pool
    assert pool.failure() is None
    await pool.stop()


async def enqueue(store: Any, batch: str, tasks: Sequence[dict[str, Any]]) -> None:
    named = enumerate(tasks)
    await store.enqueue.remote(
        [RolloutRequest(f"{batch}{n}", batch, batch, Task("t", task)) for n, task in named]
    )


async def ended(store: Any, batch: str) -> Sequence[Rollout]:
    (group,) = await finished(store, batch, 120.0)
    assert {rollout.status for rollout in group.rollouts} == {RolloutStatus.SUCCEEDED}
    return group.rollouts


def workers(rollouts: Sequence[Rollout], status: AttemptStatus = AttemptStatus.SUCCEEDED) -> list[str]:
    """Of all attempts that ended so, without what tells each runner from the one before it."""
    attempts = [attempt for rollout in rollouts for attempt in rollout.attempts if attempt.status is status]
    return sorted(str(attempt.worker).rpartition("-")[0] for attempt in attempts)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.1)


async def held(store: Any, folder: Path, batch: str) -> Path:
    """What ends the attempts of a batch that keeps both runners busy."""
    release = folder / batch
    marks = [folder / f"{batch}{number}" for number in range(2 * AT_ONCE)]
    tasks = [{"do": "hold", "mark": str(mark), "until": str(release)} for mark in marks]
    await enqueue(store, batch, tasks)
    await until(lambda: all(mark.exists() for mark in marks))
    return release


@pytest.mark.slow
async def test_a_runner_comes_with_a_node_and_ends_its_attempts_when_that_is_to_go(
    start_store: StartStore, tmp_path: Path, joining: Mapping[str, str]
) -> None:
    """None is lost, and it is given no more; where its node dies unannounced they are tried again at once."""
    address, store = joining["RAY_ADDRESS"], start_store()
    seat = OwnSeat(Bundle(("runner 1",), CORES, 0, None), "elastic")
    async with with_one_more(store, "tests.support.agents.told:act", seat):
        with joined(address, tmp_path, CORES) as (node, _):
            release = await held(store, tmp_path, "drained")
            drain(address, node, 600)
            await asyncio.sleep(1)  # a few looks
            await enqueue(store, "later", [{"do": "give", "value": 1.0}] * 4)
            release.touch()
            assert workers(await ended(store, "drained")) == ["runner-0"] * 2 + ["runner-1"] * 2
            assert workers(await ended(store, "later")) == ["runner-0"] * 4
            await until(lambda: not seat.granted())
        with joined(address, tmp_path, CORES):
            release = await held(store, tmp_path, "lost")
        release.touch()
        rollouts = await ended(store, "lost")
        assert workers(rollouts, AttemptStatus.UNRESPONSIVE) == ["runner-1"] * 2
        assert workers(rollouts) == ["runner-0"] * 4
    seat.release()


async def test_a_runner_leaves_its_room_to_those_that_need_it_and_comes_back(
    start_store: StartStore, tmp_path: Path
) -> None:
    """Its attempts end first; it asks for no other meanwhile, which might be what is needed."""
    store, wanted = start_store(), Event()
    seat = OwnSeat(Bundle(("runner 1",), 1, 0, None), "elastic", wanted.is_set)
    async with with_one_more(store, "tests.support.agents.told:act", seat):
        release = await held(store, tmp_path, "first")
        wanted.set()
        await asyncio.sleep(1)  # a few looks
        await enqueue(store, "later", [{"do": "give", "value": 1.0}] * 4)
        assert seat.has_room()
        release.touch()
        assert workers(await ended(store, "first")) == ["runner-0"] * 2 + ["runner-1"] * 2
        assert workers(await ended(store, "later")) == ["runner-0"] * 4
        await until(lambda: not seat.has_room())
        await asyncio.sleep(1)
        assert not seat.has_room()
        wanted.clear()
        (await held(store, tmp_path, "back")).touch()
        assert workers(await ended(store, "back")) == ["runner-0"] * 2 + ["runner-1"] * 2
    seat.release()


async def test_a_runner_that_cannot_work_where_it_is_put_is_tried_again_and_ends_nothing(
    start_store: StartStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Its node lacks what the agent needs."""
    store = start_store()
    lacking = SharedSeat({"num_cpus": 1})
    async with with_one_more(store, "tests.support.agents.needy:act", lacking):
        told = "'tests.support.agents.needy:act'"
        await until(lambda: sum("runner-1" in line and told in line for line in caplog.messages) >= 2)
        await enqueue(store, "b", [{}] * 3)
        assert workers(await ended(store, "b")) == ["runner-0"] * 3
