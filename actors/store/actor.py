"""The store actor: the only state that matters, durable before it is acknowledged.

It hands out rollouts, issues and expires leases, groups concurrent writes into one commit, and wakes
those who wait for rollouts or for finished groups. Killed at any moment it comes back with every
acknowledged write, and since every write is idempotent, Ray may repeat the calls that were under way
(``STORE_OPTIONS``). Spans of running attempts are written by the gateways (``SpanRecorder``).

SQLAlchemy is imported when a store is made: Ray imports this module also in the process of whoever holds a
handle, as each runner does, and would load it there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from al_ray.actors.store.group_commit import GroupCommit, Operation
from al_ray.types import (
    JSON,
    Attempt,
    AttemptStatus,
    Claim,
    Group,
    Resource,
    RolloutRequest,
    Span,
    Start,
    Worker,
    WorkerStatus,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from al_ray.actors.store.trace_exporter import ExportTarget, TraceExporter
    from al_ray.database.writer import Ask, Database

STORE_OPTIONS: Final = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": 10_000}
LEASE_SECONDS: Final = 30.0
_LOOKS: Final = 6
"""In a lease's time, for leases that have run out."""

_Item = TypeVar("_Item")
_log = logging.getLogger(__name__)


class _Bell:
    """Wakes all who wait for it, whenever it rings."""

    def __init__(self) -> None:
        self.next = asyncio.Event()

    def ring(self) -> None:
        self.next.set()
        self.next = asyncio.Event()


class Store:
    """Make it an actor with ``STORE_OPTIONS``."""

    def __init__(
        self, url: str, lease_seconds: float = LEASE_SECONDS, export: ExportTarget | None = None
    ) -> None:
        # Here, before any call: of threads that import it at once, one would find it half made.
        import al_ray.database.writer  # noqa: F401

        self._url = url
        self._exporter: TraceExporter | None = None
        if export is not None:
            from al_ray.actors.store.trace_exporter import TraceExporter  # with aiohttp: a third of a second

            self._exporter = TraceExporter(export)
        self._lease_seconds = lease_seconds
        self._began = time.time() - time.monotonic()
        self._looked = self._lease_clock()
        self._all_told = self._looked + lease_seconds
        """By then, whoever has a lease from the process before has had the time to renew it."""
        self._commits = GroupCommit(lambda: self._database.begin())
        self._queued, self._ended = _Bell(), _Bell()
        self._dead_workers: set[str] = set()
        self._seen: dict[str, Worker] = {}
        self._expiring: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        """What Ray's dashboard calls it."""
        return "store"

    async def ping(self) -> None:
        """Answers when the store is up. Raises ``UserError`` if its database cannot be used, ``StoreError``
        if what was written last could not be."""
        await asyncio.to_thread(lambda: self._database)
        if self._commits.failure is not None:
            raise self._commits.failure

    async def enqueue(self, requests: Sequence[RolloutRequest]) -> None:
        """Ask for rollouts; those already known by id are left as they are."""
        await self._alone(lambda connection: self._database.enqueue(connection, requests))
        self._queued.ring()

    async def claim(self, worker: str, claim_id: str, limit: int, wait_seconds: float) -> list[Claim]:
        """Up to ``limit`` rollouts for ``worker``, waiting for the first; empty after ``wait_seconds``.

        ``claim_id`` is the caller's name for this call: repeated, it gives the same rollouts.
        """
        from al_ray.database.writer import Ask

        self._see(worker, WorkerStatus.IDLE)
        ask = Ask(worker, claim_id, limit)
        claims = await self._first(self._queued, lambda: self._one(self._claim, ask), wait_seconds)
        if claims:
            self._see(worker, WorkerStatus.BUSY)
        return claims

    async def start(self, starts: Sequence[Start]) -> Sequence[bool | Exception]:
        """Agents start; False for one that must not, because its attempt has ended."""
        return await self._write(self._database.start, starts)

    async def renew(self, worker: str) -> list[tuple[str, int]]:
        """Prolong the worker's leases; returns the (rollout id, attempt) pairs that are still its own."""
        until = self._lease_clock() + self._lease_seconds
        held = await self._alone(lambda connection: self._database.renew(connection, worker, until))
        self._see(worker, WorkerStatus.BUSY if held else WorkerStatus.IDLE)
        return held

    async def rewarded(self, rollout_id: str, number: int) -> bool:
        """Whether the attempt has a reward."""
        return await asyncio.to_thread(lambda: self._database.rewarded(rollout_id, number))

    async def group(self, batch: str, name: str) -> Group:
        """A group of ``batch`` with its spans, for whoever judges it."""
        (found,) = await asyncio.to_thread(lambda: self._database.groups(batch, [name]))
        return found

    async def finish(self, ends: Sequence[tuple[Attempt, Sequence[Span]]]) -> Sequence[bool | Exception]:
        """End attempts with their status, error, output and last spans, a judge's with the rewards that it
        gave to others; False for one that had ended."""
        now = time.time()
        ended = [(replace(attempt, ended_at=now), spans) for attempt, spans in ends]
        outcomes = await self._write(self._database.finish, ended)
        self._ended.ring()
        if any(attempt.status is not AttemptStatus.SUCCEEDED for attempt, _ in ends):
            self._queued.ring()
        if self._exporter:
            for (attempt, spans), is_first in zip(ended, outcomes, strict=True):
                if is_first is True:
                    self._exporter.offer([*spans, attempt])
        return outcomes

    async def lose(self, worker: str) -> list[tuple[str, int]]:
        """End the attempts of a worker that is known to be dead.

        Nor does it get new ones: a claim that it was waiting for when it died is still under way here.
        """
        self._dead_workers.add(worker)
        self._see(worker, WorkerStatus.DEAD)
        now = time.time()
        return await self._lose(lambda connection: self._database.lose(connection, now, worker))

    async def lose_all(self) -> list[tuple[str, int]]:
        """End the attempts that are found under way by whoever begins, or goes on with, a run: their runners
        ended with the driver before."""
        now = time.time()
        return await self._lose(lambda connection: self._database.lose_all(connection, now))

    async def withdraw(self, beginning: str, first: str) -> None:
        """Take back what has not ended of the batches that begin so, from ``first`` on, by name. Runners
        learn of it when they renew; asked for again, it is run from the start."""
        now = time.time()
        await self._alone(lambda connection: self._database.withdraw(connection, beginning, first, now))

    async def cancel(self, batch: str) -> None:
        """Cancel what is unfinished in ``batch``; runners learn of it when they renew."""
        now = time.time()
        await self._alone(lambda connection: self._database.cancel_batch(connection, batch, now))
        self._ended.ring()

    async def finished_groups(self, batch: str, exclude: Collection[str], wait_seconds: float) -> list[str]:
        """Groups of ``batch`` that are complete and not excluded, waiting for the first of them.

        By name: whoever waits reads them from the database itself (``Records.groups``). Through here
        they would take half of the store's time.
        """

        def look() -> Awaitable[list[str]]:
            return asyncio.to_thread(lambda: self._database.finished_groups(batch, exclude))

        return await self._first(self._ended, look, wait_seconds)

    async def put_resource(self, name: str, kind: str, content: JSON) -> Resource:
        """The version of a resource with this content, made if there is none."""
        now = time.time()
        return await self._alone(
            lambda connection: self._database.put_resource(connection, name, kind, content, now)
        )

    async def flush_export(self, seconds: float) -> int:
        """Wait for exported spans to leave, but not longer; returns how many were dropped in all."""
        return await self._exporter.flush(seconds) if self._exporter else 0

    async def resource(self, name: str, version: int | None = None) -> Resource | None:
        """A version of a resource, the newest if none is named; None if there is no such."""
        return await asyncio.to_thread(lambda: self._database.resource(name, version))

    @cached_property
    def _database(self) -> Database:
        """Not opened by ``__init__``: what that raises reaches callers only as text."""
        from al_ray.database.writer import Database

        return Database(self._url)

    def _see(self, runner: str, status: WorkerStatus) -> None:
        """Written with the next round of ``_expire``: no answer waits for it."""
        self._start_expiring()
        self._seen[runner] = Worker(runner, "runner", status, time.time())

    def _claim(self, connection: Connection, asks: Sequence[Ask]) -> list[list[Claim]]:
        dead = self._dead_workers.copy()
        living = [ask for ask in asks if ask.worker not in dead]
        seconds, until = self._lease_seconds, self._lease_clock() + self._lease_seconds
        given = iter(self._database.claim(connection, living, time.time(), seconds, until))
        return [[] if ask.worker in dead else next(given) for ask in asks]

    def _lease_clock(self) -> float:
        """The wall's as it was when this process began, and the monotonic one since: the wall's may jump by
        more than a lease."""
        return self._began + time.monotonic()

    async def _lose(self, lose: Callable[[Connection], list[tuple[str, int]]]) -> list[tuple[str, int]]:
        lost = await self._alone(lose)
        self._queued.ring()
        self._ended.ring()
        return lost

    async def _first(
        self, bell: _Bell, look: Callable[[], Awaitable[list[_Item]]], wait_seconds: float
    ) -> list[_Item]:
        """What ``look`` finds, as soon as it finds something; empty after ``wait_seconds``."""
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while True:
            rung = bell.next
            found = await look()
            if found:
                return found
            try:
                async with asyncio.timeout_at(deadline):
                    await rung.wait()
            except TimeoutError:
                return []

    async def _alone(self, operation: Callable[[Connection], Any]) -> Any:
        """What ``operation`` returns, once it is durable; of a kind of its own."""
        return await self._one(lambda connection, _: [operation(connection)], None)

    async def _one(self, operation: Operation, item: Any) -> Any:
        """The outcome of ``item``, once it is durable."""
        (outcome,) = await self._write(operation, [item])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _write(self, operation: Operation, items: Sequence[Any]) -> Sequence[Any]:
        """The outcomes of the items, or the exceptions in their places, once all are durable."""
        self._start_expiring()
        return await self._commits.write(operation, items)

    def _start_expiring(self) -> None:
        """Not in ``__init__``: Ray constructs the actor outside its event loop."""
        if self._expiring is None:
            self._expiring = asyncio.create_task(self._expire())

    async def _expire(self) -> None:
        """Lose the attempts whose leases have run out, for as long as the store lives."""
        while True:
            await asyncio.sleep(self._lease_seconds / _LOOKS)
            try:
                await self._lose(self._expired)
                await self._write_seen()
            except Exception:  # a full disk, say; the next round may succeed
                _log.exception("leases could not be expired")

    def _expired(self, connection: Connection) -> list[tuple[str, int]]:
        """Leases that are found from before a clock was put right, by another process, end in time too. None
        ends in a look that comes late, as after a disk that hung: renewals that waited with it are next. Nor
        does one in the time of a lease since this process began, by whose clock all that the one before gave
        may be over."""
        clock = self._lease_clock()
        late = clock - self._looked > 3 * self._lease_seconds / _LOOKS
        self._looked = clock
        self._database.limit_leases(connection, clock + self._lease_seconds)
        if late or clock < self._all_told:
            return []
        return self._database.expire(connection, time.time(), clock)

    async def _write_seen(self) -> None:
        seen, self._seen = self._seen, {}
        await self._alone(lambda connection: self._database.see(connection, seen.values()))
