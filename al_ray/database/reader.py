"""What a run has recorded: rollouts with their attempts and spans, read from the database.

Every read is a transaction of its own, so what it returns is the state of one moment, also while
another process writes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from al_ray.database.backends import open_engine, open_read_only, reading
from al_ray.database.query import ATTEMPTS, ROLLOUTS, SPANS, Condition, Kind, Page, Query, paged, rows_of
from al_ray.database.schema import (
    attempt_columns,
    attempt_of,
    attempts,
    claims,
    request_of,
    resource_of,
    resources,
    rollouts,
    span_of,
    spans,
    worker_of,
    workers,
)
from al_ray.errors import AttemptEndedError
from al_ray.traces import call_span
from al_ray.types import Attempt, Claim, Group, Resource, Rollout, RolloutStatus, Span, SpanKind, Worker

ENDED = [status for status in RolloutStatus if status.ended]
_CHUNK: Final = 500
"""Ids in one question; databases limit them."""
_CLAIMS_OF: Final = claims().where(attempts.c.key.in_(sa.bindparam("keys", expanding=True)))


class Records:
    """One run's records, to be read. ``url`` is that of ``al_ray.database.backends``."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        """``read_only`` changes nothing; where there is no database yet, that is a ``NoStoreError``."""
        self._engine = open_read_only(url) if read_only else open_engine(url)
        self._reading = reading(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def authorize(self, keys: Sequence[str]) -> list[Claim | AttemptEndedError]:
        """The running attempt that each key belongs to. In the place of one that has ended, or that there
        never was, the error."""
        with self._reading.connect() as connection:
            rows = {
                row.key: row
                for chunk in chunks(keys)
                for row in connection.execute(_CLAIMS_OF, {"keys": chunk}).all()
            }
        return [_authorized(rows.get(key)) for key in keys]

    def attempt_spans(self, rollout_id: str, attempt: int, span_id: str | None = None) -> list[Span]:
        """The spans of one attempt, in order, or the one of this id."""
        where = [spans.c.rollout_id == rollout_id, spans.c.attempt == attempt]
        if span_id is not None:
            if "\x00" in span_id:  # no database has such a one, and PostgreSQL does not even look
                return []
            where.append(spans.c.id == span_id)
        query = sa.select(spans).where(*where).order_by(spans.c.sequence)
        with self._engine.connect() as connection:
            return [span_of(row) for row in connection.execute(query)]

    def usage(self, rollout_id: str, attempt: int) -> tuple[int, int]:
        """How many calls the attempt has made, and how many tokens they used."""
        calls = [span for span in self.attempt_spans(rollout_id, attempt) if span.kind is SpanKind.CALL]
        used = [call_span.usage(call) for call in calls]
        return len(calls), sum(each.input_tokens + each.output_tokens for each in used)

    def finished_groups(self, batch: str, exclude: Collection[str]) -> list[str]:
        """Groups of ``batch`` all of whose rollouts have ended, except those excluded."""
        unfinished = sa.func.sum(sa.case((rollouts.c.status.in_(ENDED), 0), else_=1))
        query = (
            sa.select(rollouts.c.group)
            .where(rollouts.c.batch == batch)
            .group_by(rollouts.c.group)
            .having(unfinished == 0)
            .order_by(sa.func.min(rollouts.c.position))
        )
        excluded = set(exclude)
        with self._reading.connect() as connection:
            return [name for name in connection.scalars(query) if name not in excluded]

    def groups(self, batch: str, names: Sequence[str]) -> list[Group]:
        """These groups of ``batch``, with spans."""
        with self._reading.connect() as connection:
            members: dict[str, list[Rollout]] = {name: [] for name in names}
            for chunk in chunks(names):
                these = sa.and_(rollouts.c.batch == batch, rollouts.c.group.in_(chunk))
                rows = connection.execute(sa.select(rollouts).where(these).order_by(rollouts.c.position))
                for rollout in self._with_attempts(connection, rows.all(), tuple(SpanKind)):
                    members[rollout.request.group].append(rollout)
        return [Group(name, batch, members[name]) for name in names]

    def rollout_ids(self) -> list[str]:
        """All of them, in the order they were asked for."""
        with self._reading.connect() as connection:
            return list(connection.scalars(sa.select(rollouts.c.id).order_by(rollouts.c.position)))

    def batches(self, beginning: str) -> list[str]:
        """The names of all batches that begin so, ascending."""
        query = sa.select(rollouts.c.batch).where(named(beginning)).distinct().order_by(rollouts.c.batch)
        with self._reading.connect() as connection:
            return list(connection.scalars(query))

    def rollout(self, rollout_id: str) -> Rollout | None:
        """One rollout with the spans of its last attempt, or None."""
        found = self.find_rollouts(Query([Condition("id", "=", rollout_id)]), tuple(SpanKind)).items
        return found[0] if found else None

    def find_rollouts(self, query: Query, kinds: Collection[SpanKind] = ()) -> Page[Rollout]:
        """A page of rollouts with their attempts and, of their last attempts, the spans of these kinds."""
        with self._reading.connect() as connection:
            rows, following = _page(connection, ROLLOUTS, query, sa.select(rollouts))
            return Page(self._with_attempts(connection, rows, kinds), following)

    def rewarded(self, rollout_id: str, number: int) -> bool:
        """Whether the attempt has a reward."""
        mine = sa.and_(spans.c.rollout_id == rollout_id, spans.c.attempt == number)
        query = sa.select(sa.exists().where(mine, spans.c.kind == SpanKind.REWARD))
        with self._reading.connect() as connection:
            return bool(connection.scalar(query))

    def find_attempts(self, query: Query) -> Page[Attempt]:
        """A page of attempts; they have the fields of their rollouts too."""
        of_rollout = attempts.c.rollout_id == rollouts.c.id
        columns = sa.select(*attempt_columns()).join_from(attempts, rollouts, of_rollout)
        with self._reading.connect() as connection:
            rows, following = _page(connection, ATTEMPTS, query, columns)
        return Page([attempt_of(row) for row in rows], following)

    def find_spans(self, query: Query) -> Page[Span]:
        """A page of spans, of whatever attempt; they have the fields of their rollouts too."""
        columns = sa.select(spans).join_from(spans, rollouts, spans.c.rollout_id == rollouts.c.id)
        with self._reading.connect() as connection:
            rows, following = _page(connection, SPANS, query, columns)
        return Page([span_of(row) for row in rows], following)

    def resources(self, name: str | None = None) -> list[Resource]:
        """Every version, or every one of ``name``, by name and version."""
        query = sa.select(resources).order_by(resources.c.name, resources.c.version)
        with self._reading.connect() as connection:
            rows = connection.execute(query if name is None else query.where(resources.c.name == name))
            return [resource_of(row) for row in rows]

    def resource(self, name: str, version: int | None = None) -> Resource | None:
        """A version of a resource, the newest if none is named; None if there is no such."""
        query = sa.select(resources).where(resources.c.name == name).order_by(resources.c.version.desc())
        with self._reading.connect() as connection:
            row = connection.execute(
                query if version is None else query.where(resources.c.version == version)
            ).first()
        return None if row is None else resource_of(row)

    def workers(self) -> list[Worker]:
        """Everybody who has worked for the run, by name."""
        with self._reading.connect() as connection:
            return [worker_of(row) for row in connection.execute(sa.select(workers).order_by(workers.c.name))]

    def _with_attempts(
        self, connection: Connection, rows: Sequence[Row[Any]], kinds: Collection[SpanKind]
    ) -> list[Rollout]:
        tries: dict[str, list[Attempt]] = {row.id: [] for row in rows}
        recorded: dict[str, list[Span]] = {}
        for ids in chunks(list(tries)):
            query = sa.select(*attempt_columns()).where(attempts.c.rollout_id.in_(ids))
            for row in connection.execute(query.order_by(attempts.c.number)):
                tries[row.rollout_id].append(attempt_of(row))
            if kinds:
                for span in _last_spans(connection, ids, kinds):
                    recorded.setdefault(span.rollout_id, []).append(span)
        return [
            Rollout(request_of(row), RolloutStatus(row.status), tries[row.id], recorded.get(row.id, ()))
            for row in rows
        ]


def _authorized(row: Row[Any] | None) -> Claim | AttemptEndedError:
    if row is None:
        return AttemptEndedError("the API key is none of ours: send the one that the attempt was given")
    attempt = attempt_of(row)
    if attempt.status.ended:
        return AttemptEndedError(
            f"the API key's attempt {attempt.number} of rollout {attempt.rollout_id} has ended: "
            f"{attempt.status}"
        )
    return Claim(request_of(row), attempt, lease_seconds=0.0)


def _page(
    connection: Connection, kind: Kind, query: Query, columns: sa.Select[Any]
) -> tuple[Sequence[Row[Any]], Query | None]:
    return rows_of(query, connection.execute(paged(kind, query, columns)).all())


def _last_spans(
    connection: Connection, rollout_ids: Sequence[str], kinds: Collection[SpanKind]
) -> Iterable[Span]:
    last = (
        sa.select(attempts.c.rollout_id, sa.func.max(attempts.c.number).label("number"))
        .where(attempts.c.rollout_id.in_(rollout_ids))
        .group_by(attempts.c.rollout_id)
        .subquery()
    )
    query = (
        sa.select(spans)
        .join(last, sa.and_(spans.c.rollout_id == last.c.rollout_id, spans.c.attempt == last.c.number))
        .where(spans.c.kind.in_(kinds))
        .order_by(spans.c.rollout_id, spans.c.sequence)
    )
    return [span_of(row) for row in connection.execute(query).all()]


def named(beginning: str) -> sa.ColumnElement[bool]:
    """Rollouts of a batch whose name begins so."""
    return sa.and_(rollouts.c.batch >= beginning, rollouts.c.batch < beginning + "\U0010ffff")


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """``ids`` in portions that any database takes."""
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))
