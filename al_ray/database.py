"""The database of a run: everything that is written to rollouts, attempts and spans.

Synchronous and without clocks, waiting or policy about processes: the store actor decides when
to call what. Every write may be repeated: the second time it changes nothing. A write takes
part in the transaction of the connection it is given. There is one writer, the store.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from al_ray.errors import AttemptEndedError
from al_ray.records import ENDED, Records
from al_ray.tables import attempt_of, attempts, claims, request_of, rollouts, spans
from al_ray.types import Attempt, AttemptStatus, Claim, RolloutRequest, RolloutStatus, Span

LOST_LIMIT = 5
"""Attempts of one rollout that may be lost with their runner before the rollout counts as failed."""


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of the SQLite file at ``path``."""
    return f"sqlite:///{path}"


class Database(Records):
    """One run's records, to be read and written."""

    def begin(self) -> AbstractContextManager[Connection]:
        """A connection whose writes are durable when the context ends, or undone if it raises."""
        return self._engine.begin()

    def enqueue(self, connection: Connection, requests: Sequence[RolloutRequest]) -> None:
        """Add the rollouts that are not there yet, queued in the order given."""
        ids = [request.id for request in requests]
        known = set(connection.scalars(sa.select(rollouts.c.id).where(rollouts.c.id.in_(ids))))
        rows = {
            request.id: {
                "id": request.id,
                "batch": request.batch,
                "group": request.group,
                "task_id": request.task.id,
                "split": request.task.split,
                "data": dict(request.task.data),
                "mode": request.mode,
                "max_attempts": request.max_attempts,
                "status": RolloutStatus.QUEUED,
            }
            for request in requests
            if request.id not in known
        }
        if rows:
            connection.execute(rollouts.insert(), list(rows.values()))

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

        A ``claim_id`` that is known gives what it gave, as far as that is still running.
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
                "status": AttemptStatus.RUNNING,
                "worker": worker,
                "claim_id": claim_id,
                "started_at": now,
                "lease_until": now + lease_seconds,
            }
            for row in connection.execute(query)
        ]
        if not rows:
            return []
        connection.execute(attempts.insert(), rows)
        self._set_status(connection, [row["rollout_id"] for row in rows], RolloutStatus.RUNNING)
        return self._claimed(connection, claim_id, lease_seconds)

    def renew(self, connection: Connection, worker: str, lease_until: float) -> list[tuple[str, int]]:
        """Prolong the leases of the worker's running attempts; returns those that it still holds."""
        mine = sa.and_(attempts.c.worker == worker, attempts.c.status == AttemptStatus.RUNNING)
        connection.execute(attempts.update().where(mine).values(lease_until=lease_until))
        return self._references(connection, mine)

    def append(self, connection: Connection, new: Sequence[Span]) -> None:
        """Add spans to their one attempt, in order; those whose id is known are left as they are.

        Raises ``AttemptEndedError`` if there are others and the attempt is not running.
        """
        ids = [span.id for span in new]
        known = set(connection.scalars(sa.select(spans.c.id).where(spans.c.id.in_(ids))))
        new = [span for span in new if span.id not in known]
        if not new:
            return
        rollout_id, number = new[0].rollout_id, new[0].attempt
        this = _is(rollout_id, number)
        attempt = connection.execute(sa.select(attempts.c.status, attempts.c.spans).where(this)).first()
        if attempt is None:
            raise AttemptEndedError(f"rollout {rollout_id} has no attempt {number}")
        if attempt.status != AttemptStatus.RUNNING:
            raise AttemptEndedError(f"attempt {number} of rollout {rollout_id} has ended: {attempt.status}")
        connection.execute(attempts.update().where(this).values(spans=attempt.spans + len(new)))
        connection.execute(
            spans.insert(),
            [
                {
                    "id": span.id,
                    "rollout_id": span.rollout_id,
                    "attempt": span.attempt,
                    "sequence": sequence,
                    "kind": span.kind,
                    "name": span.name,
                    "start": span.start,
                    "end": span.end,
                    "attributes": dict(span.attributes),
                }
                for sequence, span in enumerate(new, attempt.spans)
            ],
        )

    def finish(self, connection: Connection, attempt: Attempt, last: Sequence[Span]) -> bool:
        """End a running attempt as ``attempt`` says and decide on its rollout; False if it is not running.

        ``last`` spans (rewards) become part of the attempt in the same transaction.
        """
        this = _is(attempt.rollout_id, attempt.number)
        if connection.scalar(sa.select(attempts.c.status).where(this)) != AttemptStatus.RUNNING:
            return False
        if last:
            self.append(connection, last)
        connection.execute(
            attempts.update()
            .where(this)
            .values(
                status=attempt.status, ended_at=attempt.ended_at, error=attempt.error, output=attempt.output
            )
        )
        self._settle(connection, attempt.rollout_id, attempt.status)
        return True

    def lose(self, connection: Connection, now: float, worker: str | None = None) -> list[tuple[str, int]]:
        """End attempts as lost: those of ``worker``, or all whose lease has run out; returns them."""
        gone = attempts.c.lease_until < now if worker is None else attempts.c.worker == worker
        error = "its lease ran out: the runner did not renew it" if worker is None else "its runner died"
        lost = self._references(connection, sa.and_(gone, attempts.c.status == AttemptStatus.RUNNING))
        for rollout_id, number in lost:
            ended = Attempt(rollout_id, number, "", AttemptStatus.LOST, ended_at=now, error=error)
            self.finish(connection, ended, ())
        return lost

    def cancel(self, connection: Connection, batch: str, now: float) -> None:
        """Cancel what is queued or running in ``batch``."""
        unfinished = sa.and_(rollouts.c.batch == batch, rollouts.c.status.not_in(ENDED))
        ids = list(connection.scalars(sa.select(rollouts.c.id).where(unfinished)))
        connection.execute(
            attempts.update()
            .where(attempts.c.rollout_id.in_(ids), attempts.c.status == AttemptStatus.RUNNING)
            .values(status=AttemptStatus.CANCELLED, ended_at=now)
        )
        self._set_status(connection, ids, RolloutStatus.CANCELLED)

    def _settle(self, connection: Connection, rollout_id: str, ended_as: AttemptStatus) -> None:
        """Decide on a rollout after one of its attempts: done, another try, or failed."""
        if ended_as is AttemptStatus.SUCCEEDED:
            self._set_status(connection, [rollout_id], RolloutStatus.SUCCEEDED)
            return
        allowed = connection.execute(
            sa.select(rollouts.c.max_attempts).where(rollouts.c.id == rollout_id)
        ).scalar_one()
        tried = sa.select(attempts.c.status).where(attempts.c.rollout_id == rollout_id)
        ends = connection.scalars(tried).all()
        lost = ends.count(AttemptStatus.LOST)
        again = len(ends) - lost < allowed and lost < LOST_LIMIT
        self._set_status(connection, [rollout_id], RolloutStatus.QUEUED if again else RolloutStatus.FAILED)

    def _set_status(self, connection: Connection, ids: Collection[str], status: RolloutStatus) -> None:
        connection.execute(rollouts.update().where(rollouts.c.id.in_(ids)).values(status=status))

    def _references(self, connection: Connection, where: sa.ColumnElement[bool]) -> list[tuple[str, int]]:
        query = sa.select(attempts.c.rollout_id, attempts.c.number).where(where)
        return [(row.rollout_id, row.number) for row in connection.execute(query)]

    def _claimed(self, connection: Connection, claim_id: str, lease_seconds: float) -> list[Claim]:
        query = claims().where(attempts.c.claim_id == claim_id, attempts.c.status == AttemptStatus.RUNNING)
        rows = connection.execute(query.order_by(rollouts.c.position))
        return [Claim(request_of(row), attempt_of(row), lease_seconds) for row in rows]


def _is(rollout_id: str, number: int) -> sa.ColumnElement[bool]:
    return sa.and_(attempts.c.rollout_id == rollout_id, attempts.c.number == number)
