"""The store's tables: their columns, and how a row becomes a value.

``writer`` writes them and ``reader`` asks the questions; here is only what they
are asked of.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Row

from al_ray.types import (
    JSON,
    Attempt,
    AttemptStatus,
    Replay,
    Resource,
    RetryRules,
    RolloutRequest,
    Span,
    SpanKind,
    Task,
    Worker,
    WorkerStatus,
)

SCHEMA_VERSION = 3
Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Compared byte by byte on every database."""


class _Json(sa.types.TypeDecorator[JSON]):
    """JSON as text: the same bytes on every database, decoded only where it is read."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: JSON, dialect: sa.Dialect) -> str | None:
        return None if value is None else _text(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> JSON:
        return None if value is None else orjson.loads(value)


def _text(value: JSON) -> str:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


metadata = sa.MetaData()
meta = sa.Table("meta", metadata, sa.Column("schema_version", sa.Integer, nullable=False))
rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", Text, unique=True, nullable=False),
    sa.Column("batch", Text, nullable=False),
    sa.Column("group", Text, nullable=False),
    sa.Column("task_id", Text, nullable=False),
    sa.Column("split", Text, nullable=False),
    sa.Column("data", _Json, nullable=False),
    sa.Column("mode", Text, nullable=False),
    sa.Column("retry", _Json, nullable=False),
    sa.Column("replay", _Json),
    sa.Column("status", Text, nullable=False),
    sa.Index("rollouts_by_status", "status", "batch", "position"),
    sa.Index("rollouts_by_group", "batch", "group", "status", "position"),
)
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("rollout_id", Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", Text, unique=True, nullable=False),
    sa.Column("status", Text, nullable=False, index=True),
    sa.Column("worker", Text, nullable=False),
    # The claim that made the attempt; repeating that claim finds it again.
    sa.Column("claim_id", Text, nullable=False, index=True),
    sa.Column("started_at", sa.Double, nullable=False),
    # By the store's own clock.
    sa.Column("lease_until", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("error", Text),
    sa.Column("error_class", Text),
    sa.Column("output", _Json),
    sa.Column("resources", _Json, nullable=False),
)
spans = sa.Table(
    "spans",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", Text, unique=True, nullable=False),
    sa.Column("rollout_id", Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("kind", Text, nullable=False),
    sa.Column("name", Text, nullable=False),
    sa.Column("start", sa.Double, nullable=False),
    sa.Column("end", sa.Double, nullable=False),
    sa.Column("attributes", _Json, nullable=False),
    sa.Index("spans_of_attempt", "rollout_id", "attempt", "sequence"),
)
IS_REWARD = spans.c.kind == sa.literal_column(f"'{SpanKind.REWARD}'")
"""Written out, or SQLite does not see that the index below is of just these."""
sa.Index("rewards", spans.c.sequence, sqlite_where=IS_REWARD, postgresql_where=IS_REWARD)
resources = sa.Table(
    "resources",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", Text, nullable=False),
    sa.Column("content", _Json, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)
workers = sa.Table(
    "workers",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("kind", Text, nullable=False),
    sa.Column("status", Text, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
)


def attempt_columns() -> list[sa.ColumnElement[Any]]:
    """What ``attempt_of`` reads; a rollout has a status too, so they may be selected together."""
    names = ("rollout_id", "number", "key", "worker", "started_at", "ended_at", "error", "error_class")
    columns = [attempts.c[name] for name in (*names, "output", "resources")]
    return [attempts.c.status.label("attempt_status"), *columns]


def claims() -> sa.Select[Any]:
    """Every attempt with its rollout: what both ``request_of`` and ``attempt_of`` read."""
    of_rollout = attempts.c.rollout_id == rollouts.c.id
    return sa.select(rollouts, *attempt_columns()).join_from(attempts, rollouts, of_rollout)


def request_of(row: Row[Any]) -> RolloutRequest:
    """From a row with the columns of ``rollouts``."""
    task = Task(row.task_id, row.data, row.split)
    replay = None if row.replay is None else Replay(**row.replay)
    return RolloutRequest(row.id, row.batch, row.group, task, row.mode, retry_of(row.retry), replay)


def request_row(request: RolloutRequest) -> dict[str, Any]:
    """The columns of ``rollouts`` that a request decides."""
    return {
        "id": request.id,
        "batch": request.batch,
        "group": request.group,
        "task_id": request.task.id,
        "split": request.task.split,
        "data": dict(request.task.data),
        "mode": request.mode,
        "retry": asdict(request.retry),
        "replay": None if request.replay is None else asdict(request.replay),
    }


def retry_of(stored: JSON) -> RetryRules:
    """From the column ``retry``."""
    errors = stored["errors"]
    return RetryRules(
        max_attempts=stored["max_attempts"],
        statuses=tuple(map(AttemptStatus, stored["statuses"])),
        errors=None if errors is None else tuple(errors),
        never_errors=tuple(stored["never_errors"]),
    )


def attempt_of(row: Row[Any]) -> Attempt:
    """From a row with ``attempt_columns``."""
    return Attempt(
        rollout_id=row.rollout_id,
        number=row.number,
        key=row.key,
        status=AttemptStatus(row.attempt_status),
        worker=row.worker,
        started_at=row.started_at,
        ended_at=row.ended_at,
        error=row.error,
        error_class=row.error_class,
        output=row.output,
        resources=row.resources,
    )


def attempt_row(attempt: Attempt, claim_id: str, lease_until: float) -> dict[str, Any]:
    """The columns of ``attempts`` that a claim decides."""
    return {
        "rollout_id": attempt.rollout_id,
        "number": attempt.number,
        "key": attempt.key,
        "status": attempt.status,
        "worker": attempt.worker,
        "claim_id": claim_id,
        "started_at": attempt.started_at,
        "lease_until": lease_until,
        "resources": {},
    }


def span_of(row: Row[Any]) -> Span:
    """From a row with the columns of ``spans``."""
    return Span(
        id=row.id,
        rollout_id=row.rollout_id,
        attempt=row.attempt,
        kind=SpanKind(row.kind),
        name=row.name,
        start=row.start,
        end=row.end,
        attributes=row.attributes,
        sequence=row.sequence,
    )


def span_row(span: Span) -> dict[str, Any]:
    """The columns of ``spans``, but for the sequence number, which the database issues; as a driver takes
    them, without SQLAlchemy."""
    return {
        "id": span.id,
        "rollout_id": span.rollout_id,
        "attempt": span.attempt,
        "kind": span.kind.value,
        "name": span.name,
        "start": span.start,
        "end": span.end,
        "attributes": _text(span.attributes),
    }


def span_parameters() -> list[sa.Label[Any]]:
    """The columns that ``span_row`` gives, for a statement that is given them as parameters."""
    written = (column for column in spans.c if column is not spans.c.sequence)
    return [sa.bindparam(column.name, type_=_stored(column.type)).label(column.name) for column in written]


def _stored(column_type: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    return Text if isinstance(column_type, _Json) else column_type


def resource_of(row: Row[Any]) -> Resource:
    """From a row with the columns of ``resources``."""
    return Resource(row.name, row.version, row.kind, row.content, row.created_at)


def worker_of(row: Row[Any]) -> Worker:
    """From a row with the columns of ``workers``."""
    return Worker(row.name, row.kind, WorkerStatus(row.status), row.seen_at)
