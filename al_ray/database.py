"""Rollouts, attempts and spans in a SQL database: the tables, and every query on them.

Synchronous and without clocks, waiting or policy about processes: the store actor decides when
to call what. Every write may be repeated: the second time it changes nothing. A write takes
part in the transaction of the connection it is given; a read opens its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from al_ray.errors import AttemptEndedError, Problem, UserError
from al_ray.types import (
    JSON,
    Attempt,
    AttemptStatus,
    Claim,
    Group,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanKind,
    Task,
)

SCHEMA_VERSION = 1
LOST_LIMIT = 5
"""Attempts of one rollout that may be lost with their runner before the rollout counts as failed."""


class _Json(sa.types.TypeDecorator[JSON]):
    """JSON as text: the same bytes on every database, decoded only where it is read."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: JSON, dialect: sa.Dialect) -> str | None:
        return None if value is None else orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> JSON:
        return None if value is None else orjson.loads(value)


_metadata = sa.MetaData()
_meta = sa.Table("meta", _metadata, sa.Column("schema_version", sa.Integer, nullable=False))
_rollouts = sa.Table(
    "rollouts",
    _metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, unique=True, nullable=False),
    sa.Column("batch", sa.Text, nullable=False, index=True),
    sa.Column("group", sa.Text, nullable=False, index=True),
    sa.Column("task_id", sa.Text, nullable=False),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("data", _Json, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False, index=True),
)
_attempts = sa.Table(
    "attempts",
    _metadata,
    sa.Column("rollout_id", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("key", sa.Text, unique=True, nullable=False),
    sa.Column("status", sa.Text, nullable=False, index=True),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("lease_until", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("error", sa.Text),
    sa.Column("output", _Json),
    sa.Column("spans", sa.Integer, nullable=False, default=0),
)
_spans = sa.Table(
    "spans",
    _metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("rollout_id", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("start", sa.Double, nullable=False),
    sa.Column("end", sa.Double, nullable=False),
    sa.Column("attributes", _Json, nullable=False),
    sa.Index("spans_of_attempt", "rollout_id", "attempt", "sequence", unique=True),
)

_ENDED = [status for status in RolloutStatus if status.ended]


class Database:
    """One run's records. ``url`` is SQLAlchemy's."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            _configure_sqlite(self._engine)
        with self._engine.begin() as connection:
            _metadata.create_all(connection)
            version = connection.scalar(sa.select(_meta.c.schema_version))
            if version is None:
                connection.execute(_meta.insert().values(schema_version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                cure = f"this al_ray reads version {SCHEMA_VERSION}; use the al_ray that wrote it"
                raise UserError(Problem(f"store {url}", f"schema version {version}", cure))

    def close(self) -> None:
        self._engine.dispose()

    def begin(self) -> Any:
        """A context manager yielding a connection whose writes are durable when it exits."""
        return self._engine.begin()

    # --- writes ----------------------------------------------------------------------------

    def enqueue(self, connection: Connection, requests: Sequence[RolloutRequest]) -> None:
        """Add the rollouts that are not there yet, queued in the order given."""
        known = set(
            connection.scalars(sa.select(_rollouts.c.id).where(_rollouts.c.id.in_([r.id for r in requests])))
        )
        rows = {
            r.id: {
                "id": r.id,
                "batch": r.batch,
                "group": r.group,
                "task_id": r.task.id,
                "split": r.task.split,
                "data": dict(r.task.data),
                "mode": r.mode,
                "max_attempts": r.max_attempts,
                "status": RolloutStatus.QUEUED,
            }
            for r in requests
            if r.id not in known
        }
        if rows:
            connection.execute(_rollouts.insert(), list(rows.values()))

    def claim(
        self, connection: Connection, worker: str, limit: int, now: float, lease_seconds: float
    ) -> list[Claim]:
        """Give up to ``limit`` queued rollouts, oldest first, a new attempt each."""
        query = (
            sa.select(_rollouts)
            .where(_rollouts.c.status == RolloutStatus.QUEUED)
            .order_by(_rollouts.c.position)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        claims = []
        for row in connection.execute(query).all():
            request = _request(row)
            last = connection.scalar(
                sa.select(sa.func.max(_attempts.c.number)).where(_attempts.c.rollout_id == request.id)
            )
            attempt = Attempt(
                request.id, (last or 0) + 1, f"alr-{secrets.token_urlsafe(24)}", worker=worker, started_at=now
            )
            connection.execute(
                _attempts.insert().values(
                    rollout_id=attempt.rollout_id,
                    number=attempt.number,
                    key=attempt.key,
                    status=attempt.status,
                    worker=worker,
                    started_at=now,
                    lease_until=now + lease_seconds,
                )
            )
            self._set_status(connection, request.id, RolloutStatus.RUNNING)
            claims.append(Claim(request, attempt, lease_seconds))
        return claims

    def renew(self, connection: Connection, worker: str, lease_until: float) -> list[tuple[str, int]]:
        """Prolong the leases of the worker's running attempts; returns those that it still holds."""
        mine = sa.and_(_attempts.c.worker == worker, _attempts.c.status == AttemptStatus.RUNNING)
        connection.execute(_attempts.update().where(mine).values(lease_until=lease_until))
        rows = connection.execute(sa.select(_attempts.c.rollout_id, _attempts.c.number).where(mine))
        return [(row.rollout_id, row.number) for row in rows]

    def append(self, connection: Connection, spans: Sequence[Span]) -> None:
        """Add spans to one running attempt, in order; spans whose id is known are left as they are.

        Raises ``AttemptEndedError`` when the attempt is not running.
        """
        first = spans[0]
        self._append(connection, first.rollout_id, first.attempt, spans)

    def finish(
        self,
        connection: Connection,
        attempt: Attempt,
        spans: Sequence[Span],
    ) -> bool:
        """End a running attempt as ``attempt`` says and decide on its rollout; False if it had ended.

        ``spans`` (rewards) become part of the attempt in the same transaction.
        """
        if self._status(connection, attempt.rollout_id, attempt.number) is not AttemptStatus.RUNNING:
            return False
        if spans:
            self._append(connection, attempt.rollout_id, attempt.number, spans)
        connection.execute(
            _attempts.update()
            .where(_attempts.c.rollout_id == attempt.rollout_id, _attempts.c.number == attempt.number)
            .values(
                status=attempt.status, ended_at=attempt.ended_at, error=attempt.error, output=attempt.output
            )
        )
        self._settle(connection, attempt.rollout_id, attempt.status)
        return True

    def lose(
        self, connection: Connection, now: float, worker: str | None = None
    ) -> list[tuple[str, int]]:
        """End attempts as lost: those of ``worker``, or all whose lease has run out; returns them."""
        gone = _attempts.c.worker == worker if worker is not None else _attempts.c.lease_until < now
        rows = connection.execute(
            sa.select(_attempts.c.rollout_id, _attempts.c.number).where(
                gone, _attempts.c.status == AttemptStatus.RUNNING
            )
        ).all()
        for row in rows:
            error = "the runner stopped renewing its lease"
            ended = Attempt(row.rollout_id, row.number, "", AttemptStatus.LOST, ended_at=now, error=error)
            self.finish(connection, ended, ())
        return [(row.rollout_id, row.number) for row in rows]

    def cancel(self, connection: Connection, batch: str, now: float) -> None:
        """Cancel what is queued or running in ``batch``."""
        rows = connection.execute(
            sa.select(_rollouts.c.id).where(_rollouts.c.batch == batch, _rollouts.c.status.not_in(_ENDED))
        ).all()
        ids = [row.id for row in rows]
        connection.execute(
            _attempts.update()
            .where(_attempts.c.rollout_id.in_(ids), _attempts.c.status == AttemptStatus.RUNNING)
            .values(status=AttemptStatus.CANCELLED, ended_at=now)
        )
        for rollout_id in ids:
            self._set_status(connection, rollout_id, RolloutStatus.CANCELLED)

    # --- reads -----------------------------------------------------------------------------

    def authorize(self, key: str) -> Claim:
        """The running attempt that ``key`` belongs to. Raises ``AttemptEndedError`` if there is none."""
        query = (
            sa.select(_rollouts, *_attempt_columns())
            .join_from(_attempts, _rollouts, _attempts.c.rollout_id == _rollouts.c.id)
            .where(_attempts.c.key == key)
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise AttemptEndedError("the API key is unknown")
        attempt = _attempt(row)
        if attempt.status is not AttemptStatus.RUNNING:
            raise AttemptEndedError(
                f"the API key's attempt {attempt.number} of rollout {attempt.rollout_id} has ended: {attempt.status}"
            )
        return Claim(_request(row), attempt, 0.0)

    def queued(self) -> int:
        """How many rollouts wait for a runner."""
        query = sa.select(sa.func.count()).where(_rollouts.c.status == RolloutStatus.QUEUED)
        with self._engine.connect() as connection:
            return connection.scalar(query) or 0

    def finished_groups(self, batch: str, exclude: Collection[str]) -> list[Group]:
        """Groups of ``batch`` all of whose rollouts have ended, with spans, except those excluded."""
        unfinished = sa.func.sum(sa.case((_rollouts.c.status.in_(_ENDED), 0), else_=1))
        query = (
            sa.select(_rollouts.c.group)
            .where(_rollouts.c.batch == batch)
            .group_by(_rollouts.c.group)
            .having(unfinished == 0)
        )
        with self._engine.connect() as connection:
            names = [name for name in connection.scalars(query) if name not in set(exclude)]
            return [
                Group(name, batch, self._read(connection, _rollouts.c.group == name, tuple(SpanKind)))
                for name in names
            ]

    def rollout_ids(self) -> list[str]:
        """All of them, in the order they were asked for."""
        with self._engine.connect() as connection:
            return list(connection.scalars(sa.select(_rollouts.c.id).order_by(_rollouts.c.position)))

    def rollouts(
        self, batch: str | None = None, status: str | None = None, *, with_rewards: bool = False
    ) -> list[Rollout]:
        """Rollouts in the order they were asked for, with attempts; of spans, rewards if asked for."""
        where: list[sa.ColumnElement[bool]] = [sa.true()]
        if batch is not None:
            where.append(_rollouts.c.batch.startswith(batch, autoescape=True))
        if status is not None:
            where.append(_rollouts.c.status == status)
        with self._engine.connect() as connection:
            return self._read(connection, sa.and_(*where), (SpanKind.REWARD,) if with_rewards else ())

    def rollout(self, rollout_id: str) -> Rollout | None:
        """One rollout with the spans of its last attempt, or None."""
        with self._engine.connect() as connection:
            found = self._read(connection, _rollouts.c.id == rollout_id, tuple(SpanKind))
        return found[0] if found else None

    # --- the pieces ------------------------------------------------------------------------

    def _append(
        self, connection: Connection, rollout_id: str, number: int, spans: Sequence[Span]
    ) -> None:
        status = self._status(connection, rollout_id, number)
        if status is not AttemptStatus.RUNNING:
            raise AttemptEndedError(f"attempt {number} of rollout {rollout_id} has ended: {status}")
        known = set(connection.scalars(sa.select(_spans.c.id).where(_spans.c.id.in_([s.id for s in spans]))))
        new = [span for span in spans if span.id not in known]
        if not new:
            return
        this = sa.and_(_attempts.c.rollout_id == rollout_id, _attempts.c.number == number)
        first = connection.scalar(sa.select(_attempts.c.spans).where(this)) or 0
        connection.execute(_attempts.update().where(this).values(spans=first + len(new)))
        connection.execute(
            _spans.insert(),
            [
                {
                    "id": span.id,
                    "rollout_id": rollout_id,
                    "attempt": number,
                    "sequence": first + offset,
                    "kind": span.kind,
                    "name": span.name,
                    "start": span.start,
                    "end": span.end,
                    "attributes": dict(span.attributes),
                }
                for offset, span in enumerate(new)
            ],
        )

    def _settle(self, connection: Connection, rollout_id: str, ended_as: AttemptStatus) -> None:
        """Decide on the rollout after an attempt: done, another try, or failed."""
        rollout = connection.execute(sa.select(_rollouts).where(_rollouts.c.id == rollout_id)).one()
        if RolloutStatus(rollout.status).ended:
            return
        if ended_as is AttemptStatus.SUCCEEDED:
            self._set_status(connection, rollout_id, RolloutStatus.SUCCEEDED)
            return
        ends = connection.scalars(
            sa.select(_attempts.c.status).where(_attempts.c.rollout_id == rollout_id)
        ).all()
        lost = sum(status == AttemptStatus.LOST for status in ends)
        again = len(ends) - lost < rollout.max_attempts and lost < LOST_LIMIT
        self._set_status(connection, rollout_id, RolloutStatus.QUEUED if again else RolloutStatus.FAILED)

    def _status(self, connection: Connection, rollout_id: str, number: int) -> AttemptStatus | None:
        query = sa.select(_attempts.c.status).where(
            _attempts.c.rollout_id == rollout_id, _attempts.c.number == number
        )
        found = connection.scalar(query)
        return None if found is None else AttemptStatus(found)

    def _set_status(self, connection: Connection, rollout_id: str, status: RolloutStatus) -> None:
        connection.execute(_rollouts.update().where(_rollouts.c.id == rollout_id).values(status=status))

    def _read(
        self, connection: Connection, where: sa.ColumnElement[bool], kinds: Collection[SpanKind]
    ) -> list[Rollout]:
        rows = connection.execute(sa.select(_rollouts).where(where).order_by(_rollouts.c.position)).all()
        chosen = sa.select(_rollouts.c.id).where(where)
        attempts: dict[str, list[Attempt]] = {row.id: [] for row in rows}
        query = sa.select(*_attempt_columns()).where(_attempts.c.rollout_id.in_(chosen)).order_by(_attempts.c.number)
        for row in connection.execute(query):
            attempts[row.rollout_id].append(_attempt(row))
        spans: dict[str, list[Span]] = {}
        if kinds:
            for span in self._last_spans(connection, chosen, kinds):
                spans.setdefault(span.rollout_id, []).append(span)
        return [
            Rollout(_request(row), RolloutStatus(row.status), attempts[row.id], spans.get(row.id, ()))
            for row in rows
        ]

    def _last_spans(
        self, connection: Connection, chosen: sa.Select[Any], kinds: Collection[SpanKind]
    ) -> Iterable[Span]:
        last = (
            sa.select(_attempts.c.rollout_id, sa.func.max(_attempts.c.number).label("number"))
            .where(_attempts.c.rollout_id.in_(chosen))
            .group_by(_attempts.c.rollout_id)
            .subquery()
        )
        query = (
            sa.select(_spans)
            .join(last, sa.and_(_spans.c.rollout_id == last.c.rollout_id, _spans.c.attempt == last.c.number))
            .where(_spans.c.kind.in_(kinds))
            .order_by(_spans.c.rollout_id, _spans.c.sequence)
        )
        return (_span(row) for row in connection.execute(query))


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of the SQLite file at ``path``."""
    return f"sqlite:///{path}"


def _configure_sqlite(engine: sa.Engine) -> None:
    """WAL, so that others read while the store writes; transactions begun by SQLAlchemy, not by the
    driver, so that savepoints work (SQLAlchemy's documented recipe for pysqlite)."""

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=30000")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


def _attempt_columns() -> list[sa.ColumnElement[Any]]:
    return [column.label(f"attempt_{column.name}") if column.name == "status" else column
            for column in _attempts.c if column.name not in ("lease_until", "spans")]  # fmt: skip


def _request(row: Row[Any]) -> RolloutRequest:
    task = Task(row.task_id, row.data, row.split)
    return RolloutRequest(row.id, row.batch, row.group, task, row.mode, row.max_attempts)


def _attempt(row: Row[Any]) -> Attempt:
    return Attempt(row.rollout_id, row.number, row.key, AttemptStatus(row.attempt_status), row.worker,
                   row.started_at, row.ended_at, row.error, row.output)  # fmt: skip


def _span(row: Row[Any]) -> Span:
    return Span(row.id, row.rollout_id, row.attempt, SpanKind(row.kind), row.name, row.start, row.end,
                row.attributes, row.sequence)  # fmt: skip
