"""What a run has recorded: rollouts with their attempts and spans, read from the database.

Every read is a transaction of its own, so what it returns is the state of one moment, also while
another process writes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from al_ray import semconv
from al_ray.errors import AttemptEndedError
from al_ray.tables import (
    attempt_columns,
    attempt_of,
    attempts,
    claims,
    open_engine,
    request_of,
    rollouts,
    span_of,
    spans,
)
from al_ray.types import Attempt, AttemptStatus, Claim, Group, Rollout, RolloutStatus, Span, SpanKind

ENDED = [status for status in RolloutStatus if status.ended]


class Records:
    """One run's records, to be read. ``url`` is SQLAlchemy's."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)

    def close(self) -> None:
        self._engine.dispose()

    def authorize(self, key: str) -> Claim:
        """The running attempt that ``key`` belongs to. Raises ``AttemptEndedError`` if there is none."""
        with self._engine.connect() as connection:
            row = connection.execute(claims().where(attempts.c.key == key)).first()
        if row is None:
            raise AttemptEndedError("the API key is unknown")
        attempt = attempt_of(row)
        if attempt.status is not AttemptStatus.RUNNING:
            raise AttemptEndedError(
                f"the API key's attempt {attempt.number} of rollout {attempt.rollout_id} has ended: "
                f"{attempt.status}"
            )
        return Claim(request_of(row), attempt, lease_seconds=0.0)

    def attempt_spans(self, rollout_id: str, attempt: int, span_id: str | None = None) -> list[Span]:
        """The spans of one attempt, in order, or the one of this id."""
        where = [spans.c.rollout_id == rollout_id, spans.c.attempt == attempt]
        if span_id is not None:
            where.append(spans.c.id == span_id)
        query = sa.select(spans).where(*where).order_by(spans.c.sequence)
        with self._engine.connect() as connection:
            return [span_of(row) for row in connection.execute(query)]

    def usage(self, rollout_id: str, attempt: int) -> tuple[int, int]:
        """How many calls the attempt has made, and how many tokens they used."""
        calls = [span for span in self.attempt_spans(rollout_id, attempt) if span.kind is SpanKind.CALL]
        names = (semconv.INPUT_TOKENS, semconv.OUTPUT_TOKENS)
        return len(calls), sum(span.attributes[name] for span in calls for name in names)

    def finished_groups(self, batch: str, exclude: Collection[str]) -> list[Group]:
        """Groups of ``batch`` all of whose rollouts have ended, with spans, except those excluded."""
        unfinished = sa.func.sum(sa.case((rollouts.c.status.in_(ENDED), 0), else_=1))
        query = (
            sa.select(rollouts.c.group)
            .where(rollouts.c.batch == batch)
            .group_by(rollouts.c.group)
            .having(unfinished == 0)
            .order_by(sa.func.min(rollouts.c.position))
        )
        excluded = set(exclude)
        with self._engine.connect() as connection:
            names = [name for name in connection.scalars(query) if name not in excluded]
            return [Group(name, batch, self._group(connection, batch, name)) for name in names]

    def rollout_ids(self) -> list[str]:
        """All of them, in the order they were asked for."""
        with self._engine.connect() as connection:
            return list(connection.scalars(sa.select(rollouts.c.id).order_by(rollouts.c.position)))

    def rollouts(
        self, batch: str | None = None, status: str | None = None, *, with_rewards: bool = False
    ) -> list[Rollout]:
        """Rollouts in the order they were asked for, with attempts; of spans, rewards if asked for.

        ``batch`` is the beginning of a batch's name.
        """
        where: list[sa.ColumnElement[bool]] = [sa.true()]
        if batch is not None:
            where.append(rollouts.c.batch.startswith(batch, autoescape=True))
        if status is not None:
            where.append(rollouts.c.status == status)
        with self._engine.connect() as connection:
            return self._read(connection, sa.and_(*where), (SpanKind.REWARD,) if with_rewards else ())

    def rollout(self, rollout_id: str) -> Rollout | None:
        """One rollout with the spans of its last attempt, or None."""
        with self._engine.connect() as connection:
            found = self._read(connection, rollouts.c.id == rollout_id, tuple(SpanKind))
        return found[0] if found else None

    def _group(self, connection: Connection, batch: str, name: str) -> list[Rollout]:
        where = sa.and_(rollouts.c.batch == batch, rollouts.c.group == name)
        return self._read(connection, where, tuple(SpanKind))

    def _read(
        self, connection: Connection, where: sa.ColumnElement[bool], kinds: Collection[SpanKind]
    ) -> list[Rollout]:
        rows = connection.execute(sa.select(rollouts).where(where).order_by(rollouts.c.position)).all()
        chosen = sa.select(rollouts.c.id).where(where)
        tries: dict[str, list[Attempt]] = {row.id: [] for row in rows}
        query = sa.select(*attempt_columns()).where(attempts.c.rollout_id.in_(chosen))
        for row in connection.execute(query.order_by(attempts.c.number)):
            tries[row.rollout_id].append(attempt_of(row))
        recorded: dict[str, list[Span]] = {}
        if kinds:
            for span in self._last_spans(connection, chosen, kinds):
                recorded.setdefault(span.rollout_id, []).append(span)
        return [
            Rollout(request_of(row), RolloutStatus(row.status), tries[row.id], recorded.get(row.id, ()))
            for row in rows
        ]

    def _last_spans(
        self, connection: Connection, chosen: sa.Select[Any], kinds: Collection[SpanKind]
    ) -> Iterable[Span]:
        last = (
            sa.select(attempts.c.rollout_id, sa.func.max(attempts.c.number).label("number"))
            .where(attempts.c.rollout_id.in_(chosen))
            .group_by(attempts.c.rollout_id)
            .subquery()
        )
        query = (
            sa.select(spans)
            .join(last, sa.and_(spans.c.rollout_id == last.c.rollout_id, spans.c.attempt == last.c.number))
            .where(spans.c.kind.in_(kinds))
            .order_by(spans.c.rollout_id, spans.c.sequence)
        )
        return (span_of(row) for row in connection.execute(query))
