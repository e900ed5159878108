"""The runner pool: a runner that dies is replaced, one that cannot work is reported."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray
from ray.exceptions import ActorDiedError, RaySystemError

from al_ray.actors.runner import pool as runner_pool
from al_ray.actors.runner.actor import Runner
from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.database import retry
from al_ray.errors import RecipeError, StoreError, UnresponsiveError
from al_ray.recipe import AgentSection
from al_ray.types import AttemptStatus, RetryRules, Rollout, RolloutRequest, RolloutStatus, Task
from tests.support.houses.beside_the_store import finished

StartStore = Callable[..., Any]


@asynccontextmanager
async def pool_of(
    store: Any, agent: str = "tests.support.agents.told:act", count: int = 1, **options: Any
) -> AsyncIterator[RunnerPool]:
    section = AgentSection(**{"run": agent, "timeout": 60.0, "concurrency": 4, **options})
    spec = RunnerSpec("runner", section, ["http://gateway/v1"], "toy")
    pool = RunnerPool(spec, count, store, {})
    pool.start()
    yield pool
    await pool.stop()


async def enqueue(store: Any, *tasks: dict[str, Any]) -> None:
    await store.enqueue.remote([RolloutRequest(f"r{i}", "b", "g", Task("t", t)) for i, t in enumerate(tasks)])


async def ended(store: Any) -> list[Rollout]:
    (group,) = await finished(store, "b", 300.0)
    return list(group.rollouts)


async def kill(pool: RunnerPool) -> None:
    (runner,) = pool._runners.values()
    os.kill(await runner.__ray_call__.remote(lambda _: os.getpid()), signal.SIGKILL)


async def exists(*paths: Path) -> None:
    async with asyncio.timeout(90):
        while not all(path.exists() for path in paths):
            await asyncio.sleep(0.02)


async def failure(pool: RunnerPool) -> BaseException:
    async with asyncio.timeout(90):
        while (error := pool.failure()) is None:
            await asyncio.sleep(0.05)
    return error


async def test_what_is_overridden_for_the_sake_of_spans_is_said_where_runners_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for all of them, by name; of nothing, nothing is said."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(RunnerPool, "_keep", lambda *_: asyncio.sleep(0))
    async with pool_of(None, count=2):
        assert caplog.messages == []
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with pool_of(None, count=2):
        [said] = caplog.messages
    assert said.endswith("whose spans go to the run: OTEL_SDK_DISABLED, OTEL_TRACES_SAMPLER")


async def test_a_killed_runner_is_replaced_and_loses_nothing(start_store: StartStore, tmp_path: Path) -> None:
    """Its attempts are lost at once, which does not count as a try, and the replacement runs them again."""
    store, marks = start_store(), [tmp_path / "0", tmp_path / "1"]
    await enqueue(store, *({"do": "sleep_the_first_time", "mark": str(mark)} for mark in marks))
    async with pool_of(store) as pool:
        await exists(*marks)
        await kill(pool)
        for rollout in await ended(store):
            assert rollout.status is RolloutStatus.SUCCEEDED
            lost, again = rollout.attempts
            assert (lost.status, lost.error) == (AttemptStatus.UNRESPONSIVE, "its runner died")
            assert again.status is AttemptStatus.SUCCEEDED
            assert lost.worker != again.worker
        assert pool.failure() is None


async def test_an_idle_runner_that_is_killed_takes_no_rollout_with_it(start_store: StartStore) -> None:
    """The claim that it was waiting for outlives it in the store, and is given nothing."""
    store = start_store()
    async with pool_of(store) as pool:
        await enqueue(store, {"do": "give", "value": 1.0})
        await ended(store)
        await kill(pool)
        await asyncio.sleep(0.5)
        request = RolloutRequest("late", "late", "late", Task("t", {"do": "give", "value": 1.0}))
        await store.enqueue.remote([request])
        (group,) = await finished(store, "late", 120.0)
    attempts = group.rollouts[0].attempts
    assert attempts[-1].status is AttemptStatus.SUCCEEDED
    assert all("lease" not in (attempt.error or "") for attempt in attempts)


async def test_a_runner_that_an_agent_blocks_is_replaced(
    start_store: StartStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time-out inside its process could end that agent."""
    monkeypatch.setattr(runner_pool, "LEASE_SECONDS", 5.0)
    store = start_store()
    await enqueue(store, {"do": "block_the_first_time", "mark": str(tmp_path / "mark")})
    async with pool_of(store):
        (rollout,) = await ended(store)
    assert [attempt.status for attempt in rollout.attempts][-1] is AttemptStatus.SUCCEEDED


def _give_up_at_the_second_loss(store: Any) -> None:
    """Rather than at the fifth (``test_retry``): each costs a runner's start."""
    retry.LOST_LIMIT = 2


@pytest.mark.parametrize("do", ["exit_in_a_task", "exit_the_process", "cancel_everybody", "stop_the_loop"])
async def test_an_agent_that_takes_its_runner_along_does_not_end_the_run(
    start_store: StartStore, monkeypatch: pytest.MonkeyPatch, do: str
) -> None:
    """It is lost with it, again and again, until its rollout counts as failed; the others are run."""
    monkeypatch.setattr(runner_pool, "LEASE_SECONDS", 2.0)
    store = start_store(own=True)
    await store.__ray_call__.remote(_give_up_at_the_second_loss)
    await enqueue(store, {"do": do}, *[{"do": "give", "value": 1.0}] * 2)
    async with pool_of(store, concurrency=1) as pool:
        bad, *others = await ended(store)
        assert pool.failure() is None
    assert bad.status is RolloutStatus.FAILED
    assert {rollout.status for rollout in others} == {RolloutStatus.SUCCEEDED}


async def test_a_runner_whose_agents_import_hangs_is_given_up_though_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a socket without a time-out, or a mount that is gone."""
    released = threading.Event()
    monkeypatch.setattr(runner_pool, "_START_SECONDS", 0.5)
    monkeypatch.setattr(Runner, "_prepare", lambda _: released.wait())
    runner = Runner(RunnerSpec("r", AgentSection(run="a:b"), [], "toy"), Mock())
    parts = {name: SimpleNamespace(remote=getattr(runner, name)) for name in ("ping", "prepare", "run")}
    try:
        with pytest.raises(UnresponsiveError, match="imports its agent"):
            await asyncio.wait_for(runner_pool._watch(SimpleNamespace(**parts)), 5)
    finally:
        released.set()


async def test_where_ray_does_not_answer_once_a_further_runner_is_started_and_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether for its room, for the nodes that are to go, or for who wants the room."""
    started, killed, looks = Mock(), Mock(), {"granted": 0, "draining": 0, "wanted": 0}

    def second_fails(name: str, answer: Any) -> Callable[[], Any]:
        def ask() -> Any:
            looks[name] += 1
            if looks[name] == (1 if name == "granted" else 2):
                raise RaySystemError("the GCS does not answer")
            return answer

        return ask

    async def runs(*_: Any) -> str:
        await asyncio.Event().wait()
        return "never"

    async def node() -> str:
        return "node"

    seat = Mock(granted=second_fails("granted", True), wanted=second_fails("wanted", False), options={})
    monkeypatch.setattr(runner_pool, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(runner_pool, "draining", second_fails("draining", {}))
    monkeypatch.setattr(runner_pool, "_watch", runs)
    started.return_value.options.return_value.remote.return_value.node.remote = node
    monkeypatch.setattr(runner_pool, "ray", SimpleNamespace(remote=started, kill=killed))
    pool = RunnerPool(RunnerSpec("r", AgentSection(run="a:b"), [], "toy"), 0, Mock(), {}, [seat])
    pool.start()
    async with asyncio.timeout(20):
        while looks["wanted"] < 4 and pool.failure() is None:
            await asyncio.sleep(0.05)
    assert pool.failure() is None
    assert started.call_count == 1 and not killed.called
    await pool.stop()


async def test_an_agent_that_cannot_be_imported_is_reported_as_the_recipes_mistake(
    start_store: StartStore,
) -> None:
    async with pool_of(start_store(), agent="no_such_package:agent") as pool:
        error = await failure(pool)
    assert isinstance(error, RecipeError)
    assert "agent.run: 'no_such_package:agent'" in str(error)


class Late(Runner):
    """Takes longer to be made than two leases last, as on a cluster that has to start a node for it."""

    def __init__(self, spec: RunnerSpec, store: Any) -> None:
        time.sleep(5)
        super().__init__(spec, store)


async def test_a_runner_that_is_long_in_coming_is_waited_for(
    start_store: StartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_pool, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(runner_pool, "Runner", Late)
    async with pool_of(start_store()) as pool:
        await asyncio.sleep(0.1)
        (first,) = pool._runners.values()
        await first.ping.remote()
        assert list(pool._runners.values()) == [first]


class Broken(Runner):
    """Cannot be made."""

    def __init__(self, spec: RunnerSpec, store: Any) -> None:
        super().__init__(spec, store)
        raise RuntimeError("no runner here")


async def test_a_runner_that_cannot_be_made_is_reported_not_replaced(
    start_store: StartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_pool, "Runner", Broken)
    async with pool_of(start_store()) as pool:
        error = await failure(pool)
    assert isinstance(error, ActorDiedError)
    assert "no runner here" in str(error)


async def test_several_runners_share_the_work_and_end_with_the_pool(start_store: StartStore) -> None:
    store = start_store()
    await enqueue(store, *[{"do": "take_a_while"}] * 8)
    async with pool_of(store, count=2) as pool:
        runners = list(pool._runners.values())
        rollouts = await ended(store)
    assert all(rollout.status is RolloutStatus.SUCCEEDED for rollout in rollouts)
    for runner in runners:
        with pytest.raises(ActorDiedError):
            ray.get(runner.ping.remote(), timeout=60)


async def test_a_runner_full_of_threads_that_hang_is_replaced(start_store: StartStore) -> None:
    """They cannot be ended but with their process; nothing else is lost by that."""
    store = start_store()
    agent = "tests.support.agents.wild:act"
    async with pool_of(store, agent, isolation="thread", timeout=2.0, concurrency=2) as pool:
        await enqueue(store, *[{"do": "hang"}] * 5)
        # On a machine that is busy it too may take two seconds, now and then.
        task, patient = Task("t", {"do": "give", "value": 1.0}), RetryRules(max_attempts=10)
        await store.enqueue.remote([RolloutRequest("good", "b", "g", task, retry=patient)])
        *hung, good = await ended(store)
        assert pool.failure() is None
    assert [[attempt.status for attempt in rollout.attempts] for rollout in hung] == [
        [AttemptStatus.TIMED_OUT]
    ] * 5
    assert good.status is RolloutStatus.SUCCEEDED
    assert all(attempt.status is not AttemptStatus.UNRESPONSIVE for attempt in good.attempts)
    assert len({rollout.attempts[0].worker for rollout in hung}) > 1


async def test_a_runner_whose_store_cannot_be_written_is_not_replaced_but_says_why(
    start_store: StartStore, tmp_path: Path
) -> None:
    """Others would fare no better."""
    store, mark = start_store(own=True), tmp_path / "mark"
    await enqueue(store, {"do": "sleep_the_first_time", "mark": str(mark)})
    async with pool_of(store, timeout=2.0, grace=0.1) as pool:
        await exists(mark)
        await store.__ray_call__.remote(_write_nothing)
        error = await failure(pool)
    assert isinstance(error, StoreError)
    assert "the store" in str(error)


def _write_nothing(_: Any) -> None:
    """As if the disk were full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
