"""The store actor: what is acknowledged is durable, and whoever waits is woken."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from al_ray.actors.ray_errors import unwrapped
from al_ray.actors.store.actor import Store
from al_ray.database.query import Query
from al_ray.database.schema import meta
from al_ray.database.writer import Database
from al_ray.errors import AttemptEndedError, UserError
from al_ray.types import (
    Attempt,
    AttemptStatus,
    Claim,
    RetryRules,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanKind,
    Start,
    Task,
)
from tests.support.houses.beside_the_store import authorize, finished

StartStore = Callable[..., Any]

READER = """
import sys
from al_ray.database.query import Condition, Query
from al_ray.database.writer import Database
database = Database(sys.argv[1])
while sys.stdin.readline():
    ended = database.find_rollouts(Query([Condition("status", "=", "succeeded")])).items
    assert all(len(database.rollout(rollout.id).spans) == 3 for rollout in ended[-20:])
    print(len(ended), flush=True)
"""


def request(rollout_id: str, *, group: str = "g", max_attempts: int = 1) -> RolloutRequest:
    return RolloutRequest(rollout_id, "b", group, Task("t", {}), retry=RetryRules(max_attempts))


def span(name: str, attempt: Attempt) -> Span:
    return Span(
        name, attempt.rollout_id, attempt.number, SpanKind.CALL, "chat", 0.0, 1.0, {"x": list(range(50))}
    )


def ended(attempt: Attempt) -> tuple[Attempt, Sequence[Span]]:
    """As ``finish`` takes it."""
    return Attempt(attempt.rollout_id, attempt.number, attempt.key, AttemptStatus.SUCCEEDED), ()


@pytest.fixture
def store_place(store_url: str) -> str:
    """Everything here holds on every database."""
    return store_url


async def claimed(store: Any, claim_id: str, limit: int = 1, wait: float = 0.0) -> list[Claim]:
    return await store.claim.remote("w", claim_id, limit, wait)


def process_of(store: Any) -> Any:
    return store.__ray_call__.remote(lambda _: os.getpid())


async def test_whatever_a_store_is_asked_first_its_database_has_been_imported(
    start_store: StartStore,
) -> None:
    """One that is followed by another is asked by many at once, in threads, of which two that import the same
    may find it half made."""
    loaded = await start_store(own=True).__ray_call__.remote(lambda _: list(sys.modules))
    assert {"al_ray.database.writer", "sqlalchemy.engine"} <= set(loaded)


async def test_who_waits_for_a_rollout_or_a_group_is_woken_when_it_is_there(start_store: StartStore) -> None:
    """At once: nothing in the store asks again and again."""
    store = start_store()
    await store.ping.remote()  # its database is open
    waiting = asyncio.ensure_future(claimed(store, "c1", wait=60.0))
    groups = asyncio.ensure_future(finished(store, "b"))
    await asyncio.wait({waiting, groups}, timeout=0.5)
    assert not waiting.done()
    begun = time.monotonic()
    await store.enqueue.remote([request("r")])
    (claim,) = await waiting
    assert not groups.done()
    await store.finish.remote([ended(claim.attempt)])
    (group,) = await groups
    assert [rollout.id for rollout in group.rollouts] == ["r"]
    assert time.monotonic() - begun < 5
    assert await store.finished_groups.remote("b", ["g"], 0.1) == []
    assert await claimed(store, "c2", wait=0.1) == []


async def test_concurrent_claims_give_each_rollout_to_one_worker(start_store: StartStore) -> None:
    store = start_store()
    await store.enqueue.remote([request(f"r{index}") for index in range(30)])
    claims = await asyncio.gather(*(store.claim.remote(f"w{n}", f"c{n}", 4, 0.0) for n in range(10)))
    given = [claim.request.id for one in claims for claim in one]
    assert sorted(given) == sorted(f"r{index}" for index in range(30))
    assert all(claim.attempt.worker == f"w{n}" for n, one in enumerate(claims) for claim in one)


async def test_a_repeated_claim_gives_the_same_attempts(start_store: StartStore) -> None:
    """As Ray repeats it when the store is killed before it could answer."""
    store = start_store()
    await store.enqueue.remote([request("a"), request("b")])
    first = await claimed(store, "c1")
    assert await claimed(store, "c1") == first
    assert [claim.request.id for claim in await claimed(store, "c2")] == ["b"]


async def test_a_dead_worker_loses_its_attempts_and_the_claims_it_still_waits_for(
    start_store: StartStore,
) -> None:
    store = start_store()
    await store.enqueue.remote([request("a")])
    await store.claim.remote("dead", "c1", 1, 0.0)
    waiting = store.claim.remote("dead", "c2", 5, 2.0)
    assert await store.lose.remote("dead") == [("a", 1)]
    await store.enqueue.remote([request("b")])
    assert await waiting == []
    again = await claimed(store, "c3", limit=5)
    assert [(claim.request.id, claim.attempt.number) for claim in again] == [("a", 2), ("b", 1)]


async def test_what_a_killed_run_was_about_is_lost_when_it_is_gone_on_with_and_run_at_once(
    start_store: StartStore,
) -> None:
    """Before any lease has run out; what had ended stays."""
    before = start_store()
    await before.enqueue.remote([request("a"), request("b")])
    first, _ = await claimed(before, "c1", limit=2)
    await before.finish.remote([ended(first.attempt)])
    store = start_store()
    assert await store.lose_all.remote() == [("b", 1)]
    again = await claimed(store, "c2", limit=5)
    assert [(claim.request.id, claim.attempt.number) for claim in again] == [("b", 2)]
    assert await store.lose_all.remote() == [("b", 2)]


async def test_an_attempt_whose_lease_is_not_renewed_is_lost_and_tried_again(start_store: StartStore) -> None:
    store = start_store(lease_seconds=5.0)
    await store.enqueue.remote([request("a"), request("b")])
    await store.claim.remote("alive", "c1", 1, 0.0)
    (silent,) = await store.claim.remote("silent", "c2", 1, 0.0)
    assert silent.lease_seconds == 5.0
    waiting = asyncio.ensure_future(claimed(store, "c3", wait=30.0))
    while not waiting.done():
        assert await store.renew.remote("alive") == [("a", 1)]
        await asyncio.sleep(0.2)
    (again,) = await waiting
    assert (again.request.id, again.attempt.number) == ("b", 2)
    assert await store.finish.remote([ended(silent.attempt)]) == [False], "it was lost: it has ended"
    with pytest.raises(AttemptEndedError, match="unresponsive"):
        await authorize(store, silent.attempt.key)


async def test_no_attempt_is_lost_or_kept_for_a_clock_that_jumps(start_store: StartStore) -> None:
    """By more than a lease, forward and then back, while one runner renews and another is silent.

    The lease leaves a busy machine the time to renew it.
    """
    store = start_store(own=True, lease_seconds=12.0)
    for way, jump in (("forward", 3600.0), ("back", -3600.0)):
        a, b = (f"{way}/{name}" for name in "ab")
        await store.enqueue.remote([request(a, group=way), request(b, group=way)])
        (renewed,) = await store.claim.remote("alive", f"c1 {way}", 1, 0.0)
        await store.claim.remote("silent", f"c2 {way}", 1, 0.0)
        await store.__ray_call__.remote(_put_clock, jump)
        waiting = asyncio.ensure_future(claimed(store, f"c3 {way}", wait=60.0))
        while not waiting.done():
            assert await store.renew.remote("alive") == [(a, 1)]
            await asyncio.sleep(0.2)
        (again,) = await waiting
        assert (again.request.id, again.attempt.number) == (b, 2)
        assert await store.finish.remote([ended(renewed.attempt), ended(again.attempt)]) == [True, True]


async def test_a_store_that_stood_still_hears_the_renewals_that_waited_with_it_first(
    start_store: StartStore,
) -> None:
    """For longer than a lease; the runner that is silent loses its attempt all the same."""
    store = start_store(own=True, lease_seconds=6.0)
    await store.enqueue.remote([request("a"), request("b")])
    await store.claim.remote("alive", "c1", 1, 0.0)
    await store.claim.remote("silent", "c2", 1, 0.0)
    process = await store.__ray_call__.remote(lambda _: os.getpid())
    os.kill(process, signal.SIGSTOP)
    await asyncio.sleep(8.0)
    renewed = store.renew.remote("alive")
    os.kill(process, signal.SIGCONT)
    assert await renewed == [("a", 1)]
    (again,) = await claimed(store, "c3", wait=60.0)
    assert (again.request.id, again.attempt.number) == ("b", 2)


async def test_a_store_that_is_started_anew_leaves_runners_the_time_to_renew(
    store_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases that the one before gave are over by its clock, where the machine slept meanwhile. The runner
    that is silent loses its attempt all the same."""
    before = Store(store_place, lease_seconds=6.0)
    await before.enqueue([request("a"), request("b")])
    await before.claim("alive", "c1", 1, 0.0)
    await before.claim("silent", "c2", 1, 0.0)
    _end(before)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600.0)
    after = Store(store_place, lease_seconds=6.0)
    await after.enqueue([])
    await asyncio.sleep(2.0)  # it has looked for leases that have run out
    assert await after.renew("alive") == [("a", 1)]
    waiting = asyncio.ensure_future(after.claim("other", "c3", 1, 60.0))
    while not waiting.done():
        assert await after.renew("alive") == [("a", 1)]
        await asyncio.sleep(0.2)
    (again,) = await waiting
    assert (again.request.id, again.attempt.number) == ("b", 2)
    _end(after)


def _end(store: Store) -> None:
    """One that is no actor, but of this process."""
    assert store._expiring is not None
    store._expiring.cancel()
    store._database.close()


def _put_clock(store: Any, jump: float) -> None:
    """Of its process, forward or back."""
    real = time.time
    time.time = lambda: real() + jump


async def test_a_cancelled_batch_ends_its_attempts_and_completes_its_groups(start_store: StartStore) -> None:
    store = start_store()
    await store.enqueue.remote([request("a"), request("b")])
    (a,) = await claimed(store, "c1")
    await store.cancel.remote("b")
    (group,) = await finished(store, "b", 0.0)
    assert {rollout.status for rollout in group.rollouts} == {RolloutStatus.CANCELLED}
    assert await store.renew.remote("w") == []
    assert await store.start.remote([Start("a", 1)]) == [False]
    with pytest.raises(AttemptEndedError, match="cancelled"):
        await authorize(store, a.attempt.key)


async def test_what_is_withdrawn_is_its_runners_no_more_and_waits_to_be_asked_for_again(
    start_store: StartStore,
) -> None:
    store = start_store()
    await store.enqueue.remote([request("early")])
    (claim,) = await claimed(store, "c1")
    await store.withdraw.remote("b", "b")
    assert await store.renew.remote("w") == []
    waiting = asyncio.ensure_future(claimed(store, "c2", wait=60.0))
    await asyncio.wait({waiting}, timeout=0.5)
    assert not waiting.done()
    await store.enqueue.remote([request("early")])
    (again,) = await waiting
    assert (again.request.id, again.attempt.number) == ("early", 2)
    assert await store.finish.remote([ended(claim.attempt)]) == [False]


async def test_an_attempt_tells_which_versions_of_resources_it_was_started_with(
    start_store: StartStore,
) -> None:
    store = start_store()
    await store.enqueue.remote([request("a")])
    (claim,) = await claimed(store, "c1")
    assert claim.attempt.status is AttemptStatus.PREPARING
    await store.put_resource.remote("prompt", "template", "Be brief.")
    prompt = await store.put_resource.remote("prompt", "template", "Think.")
    assert await store.resource.remote("prompt") == prompt
    await store.start.remote([Start("a", 1, {"prompt": prompt.version})])
    running = (await authorize(store, claim.attempt.key)).attempt
    assert running.resources == {"prompt": 2}
    assert (await store.resource.remote("prompt", 1)).content == "Be brief."


async def test_workers_are_known_by_what_they_were_last_heard_of(
    start_store: StartStore, store_place: str
) -> None:
    """By their claims and renewals."""
    store = start_store(lease_seconds=1.2)
    await store.enqueue.remote([request("a"), request("b")])
    await store.claim.remote("busy", "c1", 1, 0.0)
    await store.claim.remote("dead", "c2", 1, 0.0)
    await store.lose.remote("dead")
    await store.renew.remote("idle")
    database = Database(store_place)
    async with asyncio.timeout(30):
        while len(workers := database.workers()) < 3:
            await asyncio.sleep(0.05)
    database.close()
    assert [(worker.name, worker.kind, worker.status.value) for worker in workers] == [
        ("busy", "runner", "busy"),
        ("dead", "runner", "dead"),
        ("idle", "runner", "idle"),
    ]
    assert all(abs(worker.seen_at - time.time()) < 30 for worker in workers)


async def test_a_store_of_another_version_is_a_users_error(start_store: StartStore, store_place: str) -> None:
    """It reaches the driver as itself, with the cure."""
    database = Database(store_place)
    with database.begin() as connection:
        connection.execute(meta.update().values(schema_version=1))
    database.close()
    with pytest.raises(UserError, match="use the al_ray that wrote it"), unwrapped():
        await start_store().ping.remote()


async def test_a_store_killed_under_load_loses_nothing_that_it_acknowledged(
    start_store: StartStore, store_place: str
) -> None:
    """Killed twice with SIGKILL while 40 runners work: everyone is answered in the end, every acknowledged
    end is there with its spans, and another process reads whole states meanwhile."""
    store = start_store(own=True)
    runners, each = 40, 20
    await store.enqueue.remote([request(f"r{index}") for index in range(runners * each)])
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, store_place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    acknowledged: list[str] = []

    async def runner(index: int) -> None:
        for number in range(each):
            (claim,) = await store.claim.remote(f"w{index}", f"c{index}/{number}", 1, 60.0)
            ends, _ = ended(claim.attempt)
            spans = [span(f"{claim.request.id}/{n}", claim.attempt) for n in range(3)]
            (outcome,) = await store.finish.remote([(ends, spans)])
            assert isinstance(outcome, bool), outcome  # False: an earlier try was only not answered
            acknowledged.append(claim.request.id)

    async def kill_after(ends: int) -> None:
        process = await process_of(store)
        while len(acknowledged) < ends:
            await asyncio.sleep(0.01)
        os.kill(process, signal.SIGKILL)

    async def kill_twice() -> None:
        await kill_after(150)
        await kill_after(500)

    try:
        running = asyncio.gather(*map(runner, range(runners)))
        killer = asyncio.create_task(kill_twice())
        finished = False
        while not finished:
            await asyncio.wait({running}, timeout=0.3)
            finished = running.done()  # before the read, so that the last one sees everything
            before = len(acknowledged)
            reader.stdin.write("\n")
            reader.stdin.flush()
            seen = int(await asyncio.to_thread(reader.stdout.readline))
            assert seen >= before, "the other process misses what was acknowledged"
        await running
        await killer
    finally:
        reader.stdin.close()
        reader.wait()
    assert len(set(acknowledged)) == seen == runners * each
    database = Database(store_place)
    for rollout in database.find_rollouts(Query()).items:
        whole = database.rollout(rollout.id)
        assert whole is not None
        assert [s.id for s in whole.spans] == [f"{rollout.id}/{n}" for n in range(3)]
        assert [attempt.status for attempt in whole.attempts] == [AttemptStatus.SUCCEEDED]
    database.close()
