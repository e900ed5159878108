"""The database of a run: everything that is written to it.

Synchronous and without clocks, waiting or rules about processes: the store actor decides when
to call what. Every write may be repeated: the second time it changes nothing. A write takes
part in the transaction of the connection it is given. The store and the gateways write, one
process at a time.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from al_ray.database import backends
from al_ray.database.judged import judged_batch
from al_ray.database.lone_insert import lone_insert
from al_ray.database.reader import ENDED, Records, chunks, named
from al_ray.database.retry import is_retried
from al_ray.database.schema import (
    attempt_of,
    attempt_row,
    attempts,
    claims,
    request_of,
    request_row,
    resource_of,
    resources,
    retry_of,
    rollouts,
    span_parameters,
    span_row,
    spans,
    workers,
)
from al_ray.errors import AttemptEndedError
from al_ray.types import (
    JSON,
    Attempt,
    AttemptStatus,
    Claim,
    Resource,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanKind,
    Start,
    Worker,
)

KEY_PREFIX: Final = "alr-"
"""By which an attempt's key is told from others."""

_OUTCOME: Final[Mapping[str, Any]] = {
    name: sa.bindparam(name) for name in ("status", "ended_at", "error", "error_class", "output")
}
_THIS: Final = attempts.update().where(
    attempts.c.rollout_id == sa.bindparam("its_rollout"), attempts.c.number == sa.bindparam("its_number")
)
_LIVE: Final = attempts.c.status.in_([status for status in AttemptStatus if not status.ended])
_NEW_SPAN: Final = sa.select(*span_parameters()).where(
    sa.exists().where(
        attempts.c.rollout_id == sa.bindparam("rollout_id"),
        attempts.c.number == sa.bindparam("attempt"),
        sa.or_(*(attempts.c.status == status for status in AttemptStatus if not status.ended)),
    )
)
"""``span_row``, if its attempt has not ended."""
_GIVEN_SPAN: Final = sa.select(*span_parameters())
"""... whether it has or not."""
_BRIEF: Final = 2**18
"""Characters that are written in a moment."""
_LIVE_OF: Final = sa.select(attempts.c.rollout_id, attempts.c.number).where(
    attempts.c.rollout_id.in_(sa.bindparam("ids", expanding=True)), _LIVE
)


_Reference = tuple[str, int]
"""Of an attempt: the rollout's id and its number."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A worker's claim to some rollouts; ``claim_id`` is its name for it."""

    worker: str
    claim_id: str
    limit: int


class Database(Records):
    """One run's records, to be read and written."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._writing = backends.writing(self._engine)
        self._lone_span = lone_insert(self._engine, spans, _NEW_SPAN)

    def begin(self) -> AbstractContextManager[Connection]:
        """A connection whose writes are durable when the context ends, or undone if it raises."""
        return backends.exclusively(self._writing)

    def close(self) -> None:
        super().close()
        if self._lone_span is not None:
            self._lone_span.close()

    def enqueue(self, connection: Connection, requests: Sequence[RolloutRequest]) -> None:
        """Add the rollouts that are not there yet, queued in the order given."""
        rows = [request_row(request) | {"status": RolloutStatus.QUEUED} for request in requests]
        if rows:
            backends.insert_new(connection, rollouts, rows)

    def claim(
        self,
        connection: Connection,
        asks: Sequence[Ask],
        now: float,
        lease_seconds: float,
        lease_until: float,
    ) -> list[list[Claim]]:
        """Give each worker that asks a new attempt at each of up to ``limit`` queued rollouts, batches by
        their names, in a batch the oldest first: what a step waits for comes before what was asked for ahead.

        A ``claim_id`` that is known gives what it gave, as far as that has not ended, and its lease begins
        anew. Leases are told by a clock of the caller's own.
        """
        ids = [ask.claim_id for ask in asks]
        known = _known(connection, attempts.c.claim_id, ids)
        new = {ask.claim_id: ask for ask in asks if ask.claim_id not in known}.values()
        last = sa.select(sa.func.max(attempts.c.number)).where(attempts.c.rollout_id == rollouts.c.id)
        query = (
            sa.select(rollouts, sa.func.coalesce(last.scalar_subquery(), 0).label("last"))
            .where(rollouts.c.status == RolloutStatus.QUEUED)
            .order_by(rollouts.c.batch, rollouts.c.position)
            .limit(sum(ask.limit for ask in new))
        )
        queued = iter(connection.execute(query).all() if new else ())
        given: dict[str, list[Claim]] = {}
        rows: list[dict[str, Any]] = []
        for ask in new:
            given[ask.claim_id] = []
            for row in islice(queued, ask.limit):
                key = f"{KEY_PREFIX}{secrets.token_urlsafe(24)}"
                attempt = Attempt(row.id, row.last + 1, key, worker=ask.worker, started_at=now)
                given[ask.claim_id].append(Claim(request_of(row), attempt, lease_seconds))
                rows.append(attempt_row(attempt, ask.claim_id, lease_until))
        if rows:
            connection.execute(attempts.insert(), rows)
            self._set_status(connection, [row["rollout_id"] for row in rows], RolloutStatus.RUNNING)
        return [
            self._claimed(connection, name, lease_seconds, lease_until) if name in known else given[name]
            for name in ids
        ]

    def renew(self, connection: Connection, worker: str, lease_until: float) -> list[tuple[str, int]]:
        """Prolong the leases of the worker's attempts; returns those that it still holds."""
        mine = sa.and_(attempts.c.worker == worker, _LIVE)
        connection.execute(attempts.update().where(mine).values(lease_until=lease_until))
        return self._references(connection, mine)

    def start(self, connection: Connection, starts: Sequence[Start]) -> list[bool]:
        """Note that agents start; False in the place of an attempt that has ended."""
        live = _live(connection, {start.rollout_id for start in starts})
        outcomes = [(start.rollout_id, start.number) in live for start in starts]
        changes = [
            {**_this(start.rollout_id, start.number), "versions": dict(start.resources)}
            for start, is_live in zip(starts, outcomes, strict=True)
            if is_live
        ]
        if changes:
            started = _THIS.values(status=AttemptStatus.RUNNING, resources=sa.bindparam("versions"))
            connection.execute(started, changes)
        return outcomes

    def append(
        self, connection: Connection, batches: Sequence[Sequence[Span]]
    ) -> list[AttemptEndedError | None]:
        """Add spans, each batch to its one attempt, in order; those whose id is known are left as they are.

        A batch that has others, but whose attempt has ended, is refused with the error in its place.
        """
        rows = [span_row(span) for batch in batches for span in batch]
        if not rows or backends.insert_new_from(connection, spans, _NEW_SPAN, rows) == len(rows):
            return [None] * len(batches)
        live = _live(connection, {span.rollout_id for batch in batches for span in batch})
        return [
            None if live >= {_of(span) for span in batch} else self._refusal(connection, batch)
            for batch in batches
        ]

    def append_at_once(self, span: Span) -> bool:
        """Whether ``span`` could be added in a moment, and is durable. If not, nothing has happened, and
        ``append`` will add it or tell why it cannot."""
        if self._lone_span is None:
            return False
        row = span_row(span)
        return len(row["attributes"]) <= _BRIEF and self._lone_span.insert(row)

    def finish(self, connection: Connection, ends: Sequence[tuple[Attempt, Sequence[Span]]]) -> list[bool]:
        """End each attempt as told and decide on its rollout; False if it had ended before.

        Its last spans (rewards) become part of it in the same transaction; those of a judge, part of the
        rollouts of the group that it judged, which have ended.
        """
        live = _live(connection, {attempt.rollout_id for attempt, _ in ends})
        ended: list[Attempt] = []
        lasts: list[Sequence[Span]] = []
        outcomes: list[bool] = []
        for attempt, last in ends:
            reference = (attempt.rollout_id, attempt.number)
            outcomes.append(reference in live)
            if reference in live:
                live.remove(reference)
                ended.append(attempt)
                lasts.append(self._own(connection, attempt, last))
        if ended:
            for refused in self.append(connection, lasts):
                if refused is not None:  # another attempt's spans
                    raise refused
            changes = [
                {**_this(a.rollout_id, a.number), **{name: getattr(a, name) for name in _OUTCOME}}
                for a in ended
            ]
            connection.execute(_THIS.values(_OUTCOME), changes)
            self._settle(connection, ended)
        return outcomes

    def _own(self, connection: Connection, attempt: Attempt, last: Sequence[Span]) -> Sequence[Span]:
        """Those of the attempt itself. What a judge gave to others is written."""
        given = [span for span in last if span.rollout_id != attempt.rollout_id]
        if not given:
            return last
        this = sa.select(rollouts).where(rollouts.c.id == attempt.rollout_id)
        judge = request_of(connection.execute(this).one())
        members = sa.select(rollouts.c.id).where(
            rollouts.c.batch == judged_batch(judge.batch), rollouts.c.group == judge.group
        )
        judged = set(connection.scalars(members)) if judge.mode == "judge" else set()
        if not all(span.kind is SpanKind.REWARD and span.rollout_id in judged for span in given):
            return last  # and so they are refused
        backends.insert_new_from(connection, spans, _GIVEN_SPAN, [span_row(span) for span in given])
        return [span for span in last if span.rollout_id == attempt.rollout_id]

    def limit_leases(self, connection: Connection, latest: float) -> None:
        """Let no lease end later: what a clock that went wrong has written."""
        beyond = sa.and_(attempts.c.lease_until > latest, _LIVE)
        connection.execute(attempts.update().where(beyond).values(lease_until=latest))

    def lose(self, connection: Connection, now: float, worker: str) -> list[_Reference]:
        """End the attempts of ``worker`` as unresponsive; returns them."""
        return self._lose(connection, now, attempts.c.worker == worker, "its runner died")

    def lose_all(self, connection: Connection, now: float) -> list[_Reference]:
        """End all attempts under way, whose run has ended, and queue their rollouts again; returns them. That
        counts for nothing: a run may be interrupted as often as anybody likes."""
        lost = self._references(connection, _LIVE)
        error = "its run had ended when it was gone on with"
        ended = (
            attempts.update().where(_LIVE).values(status=AttemptStatus.CANCELLED, ended_at=now, error=error)
        )
        connection.execute(ended)
        self._set_status(connection, [rollout_id for rollout_id, _ in lost], RolloutStatus.QUEUED)
        return lost

    def expire(self, connection: Connection, now: float, lease_clock: float) -> list[_Reference]:
        """End the attempts whose lease has run out as unresponsive; returns them."""
        error = "its lease ran out: the runner did not renew it"
        return self._lose(connection, now, attempts.c.lease_until < lease_clock, error)

    def _lose(
        self, connection: Connection, now: float, gone: sa.ColumnElement[bool], error: str
    ) -> list[_Reference]:
        lost = self._references(connection, sa.and_(gone, _LIVE))
        status = AttemptStatus.UNRESPONSIVE
        ends = [Attempt(*reference, "", status, ended_at=now, error=error) for reference in lost]
        self.finish(connection, [(ended, ()) for ended in ends])
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

    def withdraw(self, connection: Connection, beginning: str, first: str, now: float) -> None:
        """Take back what has not ended of the batches that begin so, from ``first`` on, by name: as if it had
        not been asked for yet. Attempts at it are cancelled, and stay: once it is asked for again, an attempt
        has another number."""
        these = sa.and_(named(beginning), rollouts.c.batch >= first, rollouts.c.status.not_in(ENDED))
        ids = connection.scalars(sa.select(rollouts.c.id).where(these)).all()
        self.cancel(connection, ids, now)
        for some in chunks(ids):
            connection.execute(rollouts.delete().where(rollouts.c.id.in_(some)))

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
            backends.insert_or_update(connection, workers, "name", [asdict(worker) for worker in seen])

    def _refusal(self, connection: Connection, batch: Sequence[Span]) -> AttemptEndedError | None:
        """Why the batch cannot be added to its attempt, which is not live; None if nothing in it is new."""
        ids = {span.id for span in batch}
        if _known(connection, spans.c.id, list(ids)) == ids:
            return None
        rollout_id, number = _of(batch[0])
        this = sa.and_(attempts.c.rollout_id == rollout_id, attempts.c.number == number)
        status = connection.scalar(sa.select(attempts.c.status).where(this))
        if status is None:
            return AttemptEndedError(f"rollout {rollout_id} has no attempt {number}")
        return AttemptEndedError(f"attempt {number} of rollout {rollout_id} has ended: {status}")

    def _settle(self, connection: Connection, ended: Sequence[Attempt]) -> None:
        """Decide on rollouts after an attempt of each: done, another try, or failed."""
        decided: dict[RolloutStatus, list[str]] = {status: [] for status in RolloutStatus}
        for attempt in ended:
            name = attempt.rollout_id
            if attempt.status is AttemptStatus.SUCCEEDED:
                decided[RolloutStatus.SUCCEEDED].append(name)
                continue
            stored = connection.execute(sa.select(rollouts.c.retry).where(rollouts.c.id == name)).scalar_one()
            ends = connection.scalars(sa.select(attempts.c.status).where(attempts.c.rollout_id == name)).all()
            again = is_retried(retry_of(stored), attempt, ends)
            decided[RolloutStatus.QUEUED if again else RolloutStatus.FAILED].append(name)
        for status, names in decided.items():
            self._set_status(connection, names, status)

    def _set_status(self, connection: Connection, ids: Sequence[str], status: RolloutStatus) -> None:
        for chunk in chunks(ids):
            connection.execute(rollouts.update().where(rollouts.c.id.in_(chunk)).values(status=status))

    def _references(self, connection: Connection, where: sa.ColumnElement[bool]) -> list[tuple[str, int]]:
        query = sa.select(attempts.c.rollout_id, attempts.c.number).where(where)
        return [(row.rollout_id, row.number) for row in connection.execute(query)]

    def _claimed(
        self, connection: Connection, claim_id: str, lease_seconds: float, lease_until: float
    ) -> list[Claim]:
        given = sa.and_(attempts.c.claim_id == claim_id, _LIVE)
        connection.execute(attempts.update().where(given).values(lease_until=lease_until))
        rows = connection.execute(claims().where(given).order_by(rollouts.c.position))
        return [Claim(request_of(row), attempt_of(row), lease_seconds) for row in rows]


def _live(connection: Connection, rollout_ids: Collection[str]) -> set[_Reference]:
    """The attempts of these rollouts that have not ended."""
    return {
        (rollout_id, number)
        for ids in chunks(list(rollout_ids))
        for rollout_id, number in connection.execute(_LIVE_OF, {"ids": ids}).all()
    }


def _of(span: Span) -> _Reference:
    return span.rollout_id, span.attempt


def _this(rollout_id: str, number: int) -> dict[str, JSON]:
    """The parameters of ``_THIS``."""
    return {"its_rollout": rollout_id, "its_number": number}


def _known(connection: Connection, column: sa.Column[str], values: Sequence[str]) -> set[str]:
    """Those of the values that the column has."""
    questions = (sa.select(column).where(column.in_(chunk)) for chunk in chunks(values))
    return {value for question in questions for value in connection.scalars(question)}
