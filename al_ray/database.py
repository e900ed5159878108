"""The database of a run: everything that is written to it.

Synchronous and without clocks, waiting or policy about processes: the store actor decides when
to call what. Every write may be repeated: the second time it changes nothing. A write takes
part in the transaction of the connection it is given. There is one writer, the store.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from al_ray import dialects
from al_ray.errors import AttemptEndedError
from al_ray.records import ENDED, Records, chunks
from al_ray.tables import (
    attempt_of,
    attempts,
    claims,
    request_of,
    request_row,
    resource_of,
    resources,
    retry_of,
    rollouts,
    span_row,
    spans,
    workers,
)
from al_ray.types import (
    JSON,
    Attempt,
    AttemptStatus,
    Claim,
    Resource,
    RetryPolicy,
    RolloutRequest,
    RolloutStatus,
    Span,
    Worker,
)

LOST_LIMIT = 5
"""Attempts of one rollout that may be lost with their runner before the rollout counts as failed."""
_LIVE: Final = attempts.c.status.in_([status for status in AttemptStatus if not status.ended])


class Database(Records):
    """One run's records, to be read and written."""

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A connection whose writes are durable when the context ends, or undone if it raises."""
        with self._engine.begin() as connection:
            dialects.lock_writers(connection)
            yield connection

    def enqueue(self, connection: Connection, requests: Sequence[RolloutRequest]) -> None:
        """Add the rollouts that are not there yet, queued in the order given."""
        rows = [request_row(request) | {"status": RolloutStatus.QUEUED} for request in requests]
        if rows:
            dialects.insert_new(connection, rollouts, rows)

    def claim(
        self,
        connection: Connection,
        worker: str,
        claim_id: str,
        limit: int,
        now: float,
        lease_seconds: float,
    ) -> list[Claim]:
        """Give ``worker`` a new attempt at each of up to ``limit`` queued rollouts, oldest first.

        A ``claim_id`` that is known gives what it gave, as far as that has not ended.
        """
        if connection.scalar(sa.select(sa.exists().where(attempts.c.claim_id == claim_id))):
            return self._claimed(connection, claim_id, lease_seconds)
        query = (
            sa.select(rollouts.c.id, sa.func.coalesce(sa.func.max(attempts.c.number), 0).label("last"))
            .join_from(rollouts, attempts, rollouts.c.id == attempts.c.rollout_id, isouter=True)
            .where(rollouts.c.status == RolloutStatus.QUEUED)
            .group_by(rollouts.c.id, rollouts.c.position)
            .order_by(rollouts.c.position)
            .limit(limit)
        )
        rows = [
            {
                "rollout_id": row.id,
                "number": row.last + 1,
                "key": f"alr-{secrets.token_urlsafe(24)}",
                "status": AttemptStatus.PREPARING,
                "worker": worker,
                "claim_id": claim_id,
                "started_at": now,
                "lease_until": now + lease_seconds,
                "resources": {},
            }
            for row in connection.execute(query)
        ]
        if not rows:
            return []
        connection.execute(attempts.insert(), rows)
        self._set_status(connection, [row["rollout_id"] for row in rows], RolloutStatus.RUNNING)
        return self._claimed(connection, claim_id, lease_seconds)

    def renew(self, connection: Connection, worker: str, lease_until: float) -> list[tuple[str, int]]:
        """Prolong the leases of the worker's attempts; returns those that it still holds."""
        mine = sa.and_(attempts.c.worker == worker, _LIVE)
        connection.execute(attempts.update().where(mine).values(lease_until=lease_until))
        return self._references(connection, mine)

    def run(self, connection: Connection, rollout_id: str, number: int, versions: Mapping[str, int]) -> bool:
        """Note that the agent starts, with these versions of resources; False if the attempt has ended."""
        live = sa.and_(_is(rollout_id, number), _LIVE)
        started = {"status": AttemptStatus.RUNNING, "resources": dict(versions)}
        return connection.execute(attempts.update().where(live).values(started)).rowcount == 1

    def append(self, connection: Connection, new: Sequence[Span]) -> None:
        """Add spans to their one attempt, in order; those whose id is known are left as they are.

        Raises ``AttemptEndedError`` if there are others and the attempt has ended.
        """
        ids = [span.id for span in new]
        known = {
            name
            for chunk in chunks(ids)
            for name in connection.scalars(sa.select(spans.c.id).where(spans.c.id.in_(chunk)))
        }
        new = [span for span in new if span.id not in known]
        if not new:
            return
        rollout_id, number = new[0].rollout_id, new[0].attempt
        this = _is(rollout_id, number)
        attempt = connection.execute(sa.select(attempts.c.status, attempts.c.spans).where(this)).first()
        if attempt is None:
            raise AttemptEndedError(f"rollout {rollout_id} has no attempt {number}")
        if AttemptStatus(attempt.status).ended:
            raise AttemptEndedError(f"attempt {number} of rollout {rollout_id} has ended: {attempt.status}")
        connection.execute(attempts.update().where(this).values(spans=attempt.spans + len(new)))
        rows = [span_row(span, sequence) for sequence, span in enumerate(new, attempt.spans)]
        connection.execute(spans.insert(), rows)

    def finish(self, connection: Connection, attempt: Attempt, last: Sequence[Span]) -> bool:
        """End an attempt as ``attempt`` says and decide on its rollout; False if it had ended before.

        ``last`` spans (rewards) become part of the attempt in the same transaction.
        """
        this = _is(attempt.rollout_id, attempt.number)
        status = connection.scalar(sa.select(attempts.c.status).where(this))
        if status is None or AttemptStatus(status).ended:
            return False
        if last:
            self.append(connection, last)
        outcome = {
            name: getattr(attempt, name) for name in ("status", "ended_at", "error", "error_class", "output")
        }
        connection.execute(attempts.update().where(this).values(outcome))
        self._settle(connection, attempt)
        return True

    def lose(self, connection: Connection, now: float, worker: str | None = None) -> list[tuple[str, int]]:
        """End attempts as unresponsive: those of ``worker``, or all whose lease has run out; returns them."""
        gone = attempts.c.lease_until < now if worker is None else attempts.c.worker == worker
        error = "its lease ran out: the runner did not renew it" if worker is None else "its runner died"
        lost = self._references(connection, sa.and_(gone, _LIVE))
        for rollout_id, number in lost:
            ended = Attempt(rollout_id, number, "", AttemptStatus.UNRESPONSIVE, ended_at=now, error=error)
            self.finish(connection, ended, ())
        return lost

    def cancel(self, connection: Connection, rollout_ids: Sequence[str], now: float) -> None:
        """Cancel those of the rollouts that have not ended, and their attempts."""
        for ids in chunks(rollout_ids):
            connection.execute(
                attempts.update()
                .where(attempts.c.rollout_id.in_(ids), _LIVE)
                .values(status=AttemptStatus.CANCELLED, ended_at=now)
            )
            unfinished = sa.and_(rollouts.c.id.in_(ids), rollouts.c.status.not_in(ENDED))
            connection.execute(rollouts.update().where(unfinished).values(status=RolloutStatus.CANCELLED))

    def cancel_batch(self, connection: Connection, batch: str, now: float) -> None:
        """Cancel what is queued or running in ``batch``."""
        unfinished = sa.and_(rollouts.c.batch == batch, rollouts.c.status.not_in(ENDED))
        ids = connection.scalars(sa.select(rollouts.c.id).where(unfinished)).all()
        self.cancel(connection, ids, now)

    def put_resource(
        self, connection: Connection, name: str, kind: str, content: JSON, now: float
    ) -> Resource:
        """The version of resource ``name`` with this content, made if there is none."""
        named = resources.c.name == name
        same = sa.and_(named, resources.c.kind == kind, resources.c.content == content)
        row = connection.execute(sa.select(resources).where(same)).first()
        if row is not None:
            return resource_of(row)
        last = connection.scalar(sa.select(sa.func.max(resources.c.version)).where(named))
        made = Resource(name, (last or 0) + 1, kind, content, now)
        connection.execute(resources.insert().values(asdict(made)))
        return made

    def see(self, connection: Connection, seen: Collection[Worker]) -> None:
        """Note what was heard of workers."""
        if seen:
            dialects.insert_or_update(connection, workers, "name", [asdict(worker) for worker in seen])

    def _settle(self, connection: Connection, ended: Attempt) -> None:
        """Decide on a rollout after one of its attempts: done, another try, or failed."""
        if ended.status is AttemptStatus.SUCCEEDED:
            self._set_status(connection, [ended.rollout_id], RolloutStatus.SUCCEEDED)
            return
        stored = connection.execute(
            sa.select(rollouts.c.retry).where(rollouts.c.id == ended.rollout_id)
        ).scalar_one()
        tried = sa.select(attempts.c.status).where(attempts.c.rollout_id == ended.rollout_id)
        ends = connection.scalars(tried).all()
        again = is_retried(retry_of(stored), ended, ends)
        status = RolloutStatus.QUEUED if again else RolloutStatus.FAILED
        self._set_status(connection, [ended.rollout_id], status)

    def _set_status(self, connection: Connection, ids: Sequence[str], status: RolloutStatus) -> None:
        for chunk in chunks(ids):
            connection.execute(rollouts.update().where(rollouts.c.id.in_(chunk)).values(status=status))

    def _references(self, connection: Connection, where: sa.ColumnElement[bool]) -> list[tuple[str, int]]:
        query = sa.select(attempts.c.rollout_id, attempts.c.number).where(where)
        return [(row.rollout_id, row.number) for row in connection.execute(query)]

    def _claimed(self, connection: Connection, claim_id: str, lease_seconds: float) -> list[Claim]:
        query = claims().where(attempts.c.claim_id == claim_id, _LIVE).order_by(rollouts.c.position)
        rows = connection.execute(query)
        return [Claim(request_of(row), attempt_of(row), lease_seconds) for row in rows]


def is_retried(policy: RetryPolicy, ended: Attempt, ends: Sequence[str]) -> bool:
    """Whether the rollout of an attempt that ended otherwise than well is tried again; ``ends`` are
    the statuses of all its attempts."""
    lost = ends.count(AttemptStatus.UNRESPONSIVE)
    if lost >= LOST_LIMIT or len(ends) - lost >= policy.max_attempts:
        return False
    if ended.status is AttemptStatus.UNRESPONSIVE:
        return True
    if ended.status not in policy.statuses:
        return False
    if ended.status is not AttemptStatus.FAILED:
        return True
    names = {ended.error_class, (ended.error_class or "").rpartition(".")[2]}
    wanted = policy.errors is None or not names.isdisjoint(policy.errors)
    return wanted and names.isdisjoint(policy.never_errors)


def _is(rollout_id: str, number: int) -> sa.ColumnElement[bool]:
    return sa.and_(attempts.c.rollout_id == rollout_id, attempts.c.number == number)
