"""The store's tables: their columns, how a database is opened, and how a row becomes a value.

Three kinds of record: a rollout, its attempts, and their spans. ``al_ray.database`` asks the
questions; here is only what they are asked of.
"""

from __future__ import annotations

from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from al_ray.errors import Problem, UserError
from al_ray.types import JSON, Attempt, AttemptStatus, RolloutRequest, Span, SpanKind, Task

SCHEMA_VERSION = 1


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
rollouts = sa.Table(
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
attempts = sa.Table(
    "attempts",
    _metadata,
    sa.Column("rollout_id", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("key", sa.Text, unique=True, nullable=False),
    sa.Column("status", sa.Text, nullable=False, index=True),
    sa.Column("worker", sa.Text, nullable=False),
    # The claim that made the attempt; repeating that claim finds it again.
    sa.Column("claim_id", sa.Text, nullable=False, index=True),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("lease_until", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("error", sa.Text),
    sa.Column("output", _Json),
    # How many the attempt has: the sequence number of the next.
    sa.Column("spans", sa.Integer, nullable=False, default=0),
)
spans = sa.Table(
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


def open_engine(url: str) -> sa.Engine:
    """The database at ``url``, its tables made if it is new.

    Raises ``UserError`` if another version of al_ray wrote it, and then leaves it as it is.
    """
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine)
    with engine.begin() as connection:
        _metadata.create_all(connection)
        version = connection.scalar(sa.select(_meta.c.schema_version))
        if version is None:
            connection.execute(_meta.insert().values(schema_version=SCHEMA_VERSION))
        elif version != SCHEMA_VERSION:
            cure = f"this al_ray reads version {SCHEMA_VERSION}; use the al_ray that wrote it"
            raise UserError(Problem(f"store {url}", f"schema version {version}", cure))
    return engine


def _configure_sqlite(engine: sa.Engine) -> None:
    """WAL, so that others read while the store writes; transactions begun by SQLAlchemy, not by the
    driver, so that savepoints work (SQLAlchemy's documented recipe for pysqlite)."""

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout=30000")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


def attempt_columns() -> list[sa.ColumnElement[Any]]:
    """What ``attempt_of`` reads; a rollout has a status too, so they may be selected together."""
    names = ("rollout_id", "number", "key", "worker", "started_at", "ended_at", "error", "output")
    return [attempts.c.status.label("attempt_status"), *(attempts.c[name] for name in names)]


def claims() -> sa.Select[Any]:
    """Every attempt with its rollout: what both ``request_of`` and ``attempt_of`` read."""
    of_rollout = attempts.c.rollout_id == rollouts.c.id
    return sa.select(rollouts, *attempt_columns()).join_from(attempts, rollouts, of_rollout)


def request_of(row: Row[Any]) -> RolloutRequest:
    """From a row with the columns of ``rollouts``."""
    task = Task(row.task_id, row.data, row.split)
    return RolloutRequest(row.id, row.batch, row.group, task, row.mode, row.max_attempts)


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
        output=row.output,
    )


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
