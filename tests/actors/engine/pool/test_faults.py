"""Whatever befalls an engine, at whatever moment: the pool goes on, and nothing of that engine is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from ray.exceptions import RayActorError, RayTaskError

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.weights.update import WeightUpdate
from al_ray.errors import EngineUnavailableError, LearnerLostError
from al_ray.machines import cluster
from al_ray.machines.placement import SharedSeat
from tests.actors.engine.pool.faulty import FaultyEngine
from tests.support.models.engine_inputs import engine_spec

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANSWER_SECONDS = 3.0
FAULTS = ("dies", "is_stopped", "hangs")
MOMENTS = ("ping", "pause", "load", "resume")


def pool_of(count: int, faults: Path) -> EnginePool:
    seats = [SharedSeat({"num_cpus": 0})] * count
    return EnginePool(engine_spec(faults), seats, engine_class=FaultyEngine, answer_seconds=ANSWER_SECONDS)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("al_ray.actors.engine.pool._PROBE_SECONDS", 0.1)
        patch.setattr("al_ray.actors.engine.pool._VERDICT_SECONDS", 1.0)
        yield


@dataclass(frozen=True)
class Beset:
    """Two engines, and the folder in which faults are laid on them."""

    pool: EnginePool
    faults: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def all_beset(
    tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> AsyncIterator[Sequence[Beset]]:
    """One for each fault."""
    folders = [tmp_path_factory.mktemp("faults") for _ in FAULTS]
    all_beset = [Beset(pool_of(2, folder), folder) for folder in folders]
    await asyncio.gather(*(each.pool.start() for each in all_beset))
    yield all_beset
    await asyncio.gather(*(each.pool.shutdown() for each in all_beset))


@pytest.fixture
def pool(all_beset: Sequence[Beset]) -> EnginePool:
    return all_beset[0].pool


@pytest.fixture
def faults(all_beset: Sequence[Beset]) -> Path:
    return all_beset[0].faults


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trials(all_beset: Sequence[Beset]) -> AsyncIterator[Mapping[tuple[str, str], asyncio.Task[None]]]:
    """Of each fault at each moment, under way: those of one fault one after the other, the faults at once:
    most of the time, an engine that does not answer is waited for."""
    turns = {fault: asyncio.Lock() for fault in FAULTS}

    async def trial(moment: str, fault: str, beset: Beset) -> None:
        async with turns[fault]:
            await one_fails_while_the_other_goes_on(beset, moment, fault)

    trials = {
        (moment, fault): asyncio.create_task(trial(moment, fault, beset))
        for moment in MOMENTS
        for fault, beset in zip(FAULTS, all_beset, strict=True)
    }
    yield trials
    for task in trials.values():
        task.cancel()
    await asyncio.gather(*trials.values(), return_exceptions=True)


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


async def one_fails_while_the_other_goes_on(beset: Beset, moment: str, fault: str) -> None:
    pool, faults = beset.pool, beset.faults
    update = next_update(pool)
    before = await processes(pool)
    (faults / f"{moment}.{fault}").touch()
    if moment == "ping":
        async with asyncio.timeout(60):
            while (faults / f"ping.{fault}").exists():
                await asyncio.sleep(0.05)
    async with asyncio.timeout(60):
        await pool.update(update)
    assert pool.admitted()
    await lost(pool, before, 1)
    await all_admitted(pool, update.version)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_an_engine_that_fails_is_replaced_while_the_other_goes_on(
    trials: Mapping[tuple[str, str], asyncio.Task[None]], moment: str, fault: str
) -> None:
    """Also as weights change: the other has them at once, and the new one from its first call on."""
    await trials[moment, fault]


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
    tmp_path: Path, ray_cluster: None
) -> None:
    pool = pool_of(1, tmp_path)
    await pool.start()
    for engine in range(6):
        (tmp_path / f"pause.{engine}.dies").touch()
    async with asyncio.timeout(60):
        with pytest.raises(
            EngineUnavailableError, match="6 engines died since policy version 1 was admitted"
        ):
            await pool.update(WeightUpdate(1, path="nowhere"))
    await pool.shutdown()


@pytest.mark.parametrize("at", ["meet", "update"])
async def test_engines_that_are_ended_because_learners_were_lost_are_not_to_blame(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """However many there are."""
    monkeypatch.setattr("al_ray.actors.engine.pool.MAX_LOST", 1)

    async def lose(*_: object) -> None:
        raise LearnerLostError("a learner died")

    pool = pool_of(2, tmp_path)
    await pool.start()
    before = await processes(pool)
    with pytest.raises(LearnerLostError):
        await (pool.meet(lose) if at == "meet" else pool.update(WeightUpdate(1), lose))
    await lost(pool, before, 2)
    await all_admitted(pool, 0)
    await pool.shutdown()


async def test_the_first_engines_that_are_lost_as_they_start_are_followed_by_others(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead or stopped, also before they can tell anything; and more of them than one."""
    monkeypatch.setattr("al_ray.actors.engine.pool._STARTING_SECONDS", 20.0)
    (tmp_path / "start.1.dies").touch()
    (tmp_path / "start.2.dies").touch()
    (tmp_path / "start.is_stopped").touch()
    (tmp_path / "made.is_stopped").touch()
    pool = pool_of(2, tmp_path)
    await pool.start()
    assert len(pool.admitted()) == 2 and not list(tmp_path.iterdir())
    await pool.shutdown()


async def test_the_first_engines_that_die_each_time_end_the_start(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one more has died than may. (How many may is in the test of engines that cannot be kept alive.)"""
    monkeypatch.setattr("al_ray.actors.engine.pool.MAX_LOST", 1)
    for engine in range(3):
        (tmp_path / f"start.{engine}.dies").touch()
    with pytest.raises(RayActorError):
        await pool_of(1, tmp_path).start()
    assert [path.name for path in tmp_path.iterdir()] == ["start.2.dies"]


async def test_engines_of_a_node_that_ray_misses_later_than_them_end_nothing(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was cut off. Here they are stopped, and their node is said to be gone when all have been missed."""
    monkeypatch.setattr("al_ray.actors.engine.pool.MAX_LOST", 1)
    pool = pool_of(2, tmp_path)
    await pool.start()
    before, nodes, missed = await processes(pool), cluster.node_ids(), []

    def as_far_as_ray_knows() -> set[str]:
        missed.append(len(pool._lost))
        return nodes if missed[-1] < 2 else set()

    monkeypatch.setattr("al_ray.machines.cluster.node_ids", as_far_as_ray_knows)
    for engine in range(2):
        (tmp_path / f"ping.{engine}.is_stopped").touch()
    await lost(pool, before, 2)
    async with asyncio.timeout(60):
        while len(pool.admitted()) < 2:
            assert pool.failure() is None
            await asyncio.sleep(0.05)
    assert 2 in missed and pool._lost == []
    await pool.shutdown()


async def test_an_engine_that_cannot_start_ends_all_with_its_error(tmp_path: Path, ray_cluster: None) -> None:
    pool = pool_of(2, tmp_path)
    (tmp_path / "start.raises").touch()
    with pytest.raises(RayTaskError, match="start will not do"):
        await pool.start()
    assert pool.engines() == []


async def test_shutting_down_does_not_wait_for_an_engine_that_is_stopped(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_ray.actors.engine.pool._SHUTDOWN_SECONDS", 1.0)
    pool = pool_of(1, tmp_path)
    await pool.start()
    before = await processes(pool)
    (tmp_path / "shutdown.is_stopped").touch()
    async with asyncio.timeout(60):
        await pool.shutdown()
    await lost(pool, before, 1)
