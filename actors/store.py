"""The store actor: the only state that matters, durable before it is acknowledged.

It owns the database, groups concurrent writes into one commit, issues and expires leases, and
wakes those who wait for rollouts or for finished groups. Killed at any moment it comes back with
every acknowledged write, and since every write is idempotent, Ray may repeat the calls that were
under way (``STORE_OPTIONS``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from sqlalchemy.engine import Connection

from al_ray.database import Database
from al_ray.types import Attempt, Claim, Group, RolloutRequest, Span

STORE_OPTIONS: Final = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": 10_000}
LEASE_SECONDS: Final = 30.0
_EXPIRY_PERIOD: Final = LEASE_SECONDS / 6


class Store:
    """Make it an actor with ``STORE_OPTIONS``."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._pending: list[tuple[Callable[[Connection], Any], asyncio.Future[Any]]] = []
        self._work = asyncio.Event()
        self._changed = asyncio.Condition()
        self._commits = 0
        self._background: list[asyncio.Task[None]] = []

    async def ping(self) -> None:
        """Answers when the store is up."""

    async def enqueue(self, requests: Sequence[RolloutRequest]) -> None:
        """Ask for rollouts; those already known by id are left as they are."""
        await self._write(lambda connection: self._database.enqueue(connection, requests))

    async def claim(self, worker: str, limit: int, wait_seconds: float) -> list[Claim]:
        """Up to ``limit`` rollouts for ``worker``, waiting for the first; empty after ``wait_seconds``."""
        deadline = time.monotonic() + wait_seconds
        while True:
            seen = self._commits
            if await asyncio.to_thread(self._database.queued):
                claims = await self._write(
                    lambda connection: self._database.claim(
                        connection, worker, limit, time.time(), LEASE_SECONDS
                    )
                )
                if claims:
                    return list(claims)
            if not await self._wait_for_commit(seen, deadline):
                return []

    async def renew(self, worker: str) -> list[tuple[str, int]]:
        """Prolong the worker's leases; returns the (rollout id, attempt) pairs that are still its own."""
        until = time.time() + LEASE_SECONDS
        return await self._write(lambda connection: self._database.renew(connection, worker, until))

    async def authorize(self, key: str) -> Claim:
        """The running attempt of an API key. Raises ``AttemptEndedError``."""
        return await asyncio.to_thread(self._database.authorize, key)

    async def append(self, batches: Sequence[Sequence[Span]]) -> list[Exception | None]:
        """Make spans durable; each batch belongs to one attempt and succeeds or fails for itself."""
        writes = [self._write(lambda connection, s=spans: self._database.append(connection, s)) for spans in batches]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        return [_raise_if_fatal(outcome) for outcome in outcomes]

    async def finish(self, attempt: Attempt, spans: Sequence[Span] = ()) -> bool:
        """End an attempt with its status, error, output and last spans; False if it had ended before."""
        return await self._write(lambda connection: self._database.finish(connection, attempt, spans))

    async def lose(self, worker: str) -> list[tuple[str, int]]:
        """End the attempts of a worker that is known to be dead."""
        return await self._write(lambda connection: self._database.lose(connection, time.time(), worker))

    async def cancel(self, batch: str) -> None:
        """Cancel what is unfinished in ``batch``."""
        await self._write(lambda connection: self._database.cancel(connection, batch, time.time()))

    async def finished_groups(self, batch: str, exclude: Collection[str], wait_seconds: float) -> list[Group]:
        """Groups of ``batch`` that are complete and not excluded, waiting for the first of them."""
        deadline = time.monotonic() + wait_seconds
        while True:
            seen = self._commits
            groups = await asyncio.to_thread(self._database.finished_groups, batch, exclude)
            if groups or not await self._wait_for_commit(seen, deadline):
                return groups

    async def _write(self, operation: Callable[[Connection], Any]) -> Any:
        if not self._background:  # not in __init__: Ray constructs the actor outside its event loop
            self._background = [asyncio.create_task(self._commit_writes()), asyncio.create_task(self._expire())]
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.append((operation, future))
        self._work.set()
        return await future

    async def _commit_writes(self) -> None:
        """Group commit: all writes that arrived while the last commit was under way share the next."""
        while True:
            await self._work.wait()
            self._work.clear()
            pending, self._pending = self._pending, []
            try:
                outcomes = await asyncio.to_thread(self._commit, [operation for operation, _ in pending])
            except Exception as error:
                for _, future in pending:
                    future.set_exception(error)
                continue
            for (_, future), outcome in zip(pending, outcomes, strict=True):
                if future.cancelled():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
            async with self._changed:
                self._commits += 1
                self._changed.notify_all()

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

    async def _wait_for_commit(self, seen: int, deadline: float) -> bool:
        """Wait until there was a commit after the ``seen``-th; False if the deadline came first."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()), self._changed:
                await self._changed.wait_for(lambda: self._commits != seen)
        except TimeoutError:
            return False
        return True

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_PERIOD)
            await self._write(lambda connection: self._database.lose(connection, time.time()))


def _raise_if_fatal(outcome: BaseException | None) -> Exception | None:
    if outcome is None or isinstance(outcome, Exception):
        return outcome
    raise outcome
