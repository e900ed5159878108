"""The store actor: the only state that matters, durable before it is acknowledged.

It owns the database, groups concurrent writes into one commit, issues and expires leases, and
wakes those who wait for rollouts or for finished groups. Killed at any moment it comes back with
every acknowledged write, and since every write is idempotent, Ray may repeat the calls that were
under way (``STORE_OPTIONS``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, TypeVar

from sqlalchemy.engine import Connection

from al_ray.actors.trace_exporter import ExportTarget, TraceExporter
from al_ray.database import Database
from al_ray.types import Attempt, Claim, Group, RolloutRequest, Span

STORE_OPTIONS: Final = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": 10_000}
LEASE_SECONDS: Final = 30.0

_Item = TypeVar("_Item")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Write:
    operation: Callable[[Connection], Any]
    wakes: bool
    """Whether those who wait for rollouts or groups may find some after it."""
    outcome: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, outcome: Any) -> None:
        if self.outcome.cancelled():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class Store:
    """Make it an actor with ``STORE_OPTIONS``."""

    def __init__(
        self, url: str, lease_seconds: float = LEASE_SECONDS, export: ExportTarget | None = None
    ) -> None:
        self._url = url
        self._exporter = TraceExporter(export) if export else None
        self._lease_seconds = lease_seconds
        self._pending: list[_Write] = []
        self._work = asyncio.Event()
        self._changed = asyncio.Event()
        self._dead_workers: set[str] = set()
        self._background: list[asyncio.Task[None]] = []

    async def ping(self) -> None:
        """Answers when the store is up. Raises ``UserError`` if its database cannot be used."""
        await asyncio.to_thread(lambda: self._database)

    async def enqueue(self, requests: Sequence[RolloutRequest]) -> None:
        """Ask for rollouts; those already known by id are left as they are."""
        await self._write(lambda connection: self._database.enqueue(connection, requests), wakes=True)

    async def claim(self, worker: str, claim_id: str, limit: int, wait_seconds: float) -> list[Claim]:
        """Up to ``limit`` rollouts for ``worker``, waiting for the first; empty after ``wait_seconds``.

        ``claim_id`` is the caller's name for this call: repeated, it gives the same rollouts.
        """

        def claim(connection: Connection) -> list[Claim]:
            if worker in self._dead_workers:
                return []
            now = time.time()
            return self._database.claim(connection, worker, claim_id, limit, now, self._lease_seconds)

        return await self._first(lambda: self._write(claim, wakes=False), wait_seconds)

    async def renew(self, worker: str) -> list[tuple[str, int]]:
        """Prolong the worker's leases; returns the (rollout id, attempt) pairs that are still its own."""
        until = time.time() + self._lease_seconds
        return await self._write(
            lambda connection: self._database.renew(connection, worker, until), wakes=False
        )

    async def authorize(self, key: str) -> Claim:
        """The running attempt of an API key. Raises ``AttemptEndedError``."""
        return await asyncio.to_thread(lambda: self._database.authorize(key))

    async def rewarded(self, rollout_id: str, number: int) -> bool:
        """Whether the attempt has a reward."""
        return await asyncio.to_thread(lambda: self._database.rewarded(rollout_id, number))

    async def spans(self, rollout_id: str, attempt: int, span_id: str) -> list[Span]:
        """The attempt's span of this id; empty if it has none."""
        return await asyncio.to_thread(lambda: self._database.attempt_spans(rollout_id, attempt, span_id))

    async def usage(self, rollout_id: str, attempt: int) -> tuple[int, int]:
        """How many calls the attempt has made, and how many tokens they used."""
        return await asyncio.to_thread(lambda: self._database.usage(rollout_id, attempt))

    async def append(self, batches: Sequence[Sequence[Span]]) -> list[Exception | None]:
        """Make spans durable; each batch belongs to one attempt and succeeds or fails for itself."""

        async def append(spans: Sequence[Span]) -> Exception | None:
            try:
                await self._write(lambda connection: self._database.append(connection, spans), wakes=False)
            except Exception as error:  # handed to the caller, in its place
                return error
            if self._exporter:
                self._exporter.offer(spans)
            return None

        return await asyncio.gather(*map(append, batches))

    async def finish(self, attempt: Attempt, spans: Sequence[Span] = ()) -> bool:
        """End an attempt with its status, error, output and last spans; False if it had ended before."""
        ended = replace(attempt, ended_at=time.time())
        is_first = await self._write(
            lambda connection: self._database.finish(connection, ended, spans), wakes=True
        )
        if self._exporter and is_first:
            self._exporter.offer([*spans, ended])
        return is_first

    async def lose(self, worker: str) -> list[tuple[str, int]]:
        """End the attempts of a worker that is known to be dead.

        Nor does it get new ones: a claim that it was waiting for when it died is still under way here.
        """
        self._dead_workers.add(worker)
        return await self._write(
            lambda connection: self._database.lose(connection, time.time(), worker), wakes=True
        )

    async def cancel(self, batch: str) -> None:
        """Cancel what is unfinished in ``batch``."""
        await self._write(
            lambda connection: self._database.cancel_batch(connection, batch, time.time()), wakes=True
        )

    async def finished_groups(self, batch: str, exclude: Collection[str], wait_seconds: float) -> list[Group]:
        """Groups of ``batch`` that are complete and not excluded, waiting for the first of them."""
        return await self._first(
            lambda: asyncio.to_thread(lambda: self._database.finished_groups(batch, exclude)), wait_seconds
        )

    async def flush_export(self, seconds: float) -> int:
        """Wait for exported spans to leave, but not longer; returns how many were dropped in all."""
        return await self._exporter.flush(seconds) if self._exporter else 0

    @cached_property
    def _database(self) -> Database:
        """Not opened by ``__init__``: what that raises reaches callers only as text."""
        return Database(self._url)

    async def _first(self, look: Callable[[], Awaitable[list[_Item]]], wait_seconds: float) -> list[_Item]:
        """What ``look`` finds, as soon as it finds something; empty after ``wait_seconds``."""
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while True:
            changed = self._changed
            found = await look()
            if found:
                return found
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                return []

    async def _write(self, operation: Callable[[Connection], Any], *, wakes: bool) -> Any:
        """What ``operation`` returns, once it is durable."""
        if not self._background:  # not in __init__: Ray constructs the actor outside its event loop
            self._background = [
                asyncio.create_task(self._commit_writes()),
                asyncio.create_task(self._expire()),
            ]
        write = _Write(operation, wakes)
        self._pending.append(write)
        self._work.set()
        return await write.outcome

    async def _commit_writes(self) -> None:
        """Group commit: all writes that arrived while the last commit was under way share the next."""
        while True:
            await self._work.wait()
            self._work.clear()
            writes, self._pending = self._pending, []
            try:
                outcomes = await asyncio.to_thread(self._commit, [write.operation for write in writes])
            except Exception as error:  # nothing of this commit is durable, and every caller is told
                outcomes = [error] * len(writes)
            for write, outcome in zip(writes, outcomes, strict=True):
                write.settle(outcome)
            if any(write.wakes for write in writes):
                self._changed.set()
                self._changed = asyncio.Event()

    def _commit(self, operations: Sequence[Callable[[Connection], Any]]) -> list[Any]:
        outcomes: list[Any] = []
        with self._database.begin() as connection:
            for operation in operations:
                try:
                    with connection.begin_nested():
                        outcomes.append(operation(connection))
                except Exception as error:  # handed to the caller who asked for this write
                    outcomes.append(error)
        return outcomes

    async def _expire(self) -> None:
        """Lose the attempts whose leases have run out, for as long as the store lives."""
        while True:
            await asyncio.sleep(self._lease_seconds / 6)
            try:
                await self._write(lambda connection: self._database.lose(connection, time.time()), wakes=True)
            except Exception:  # a full disk, say; the next round may succeed
                _log.exception("leases could not be expired")
