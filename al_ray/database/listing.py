"""All rollouts of a run in brief, as whoever lists a hundred thousand of them keeps them in memory: read
once, and then what has changed. Nothing is written, and no read takes long: a run under way is not held up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Row

from al_ray.database.reader import Records, chunks
from al_ray.database.schema import IS_REWARD, attempts, rollouts, span_of, spans
from al_ray.traces.words import words
from al_ray.types import Mode, RolloutStatus, Span
from al_ray.types.value import Value

_READ: Final = 5000
"""Rows that are read at once."""
_FEW: Final = {"yield_per": 50}
"""The execution option of those who read long texts, to hold few at once."""
_UNFINISHED: Final = [status for status in RolloutStatus if not status.ended]
_LAST: Final = (
    sa.select(sa.func.max(attempts.c.number))
    .where(attempts.c.rollout_id == rollouts.c.id)
    .correlate(rollouts)
    .scalar_subquery()
)
_OF_ROLLOUT: Final = ("position", "id", "batch", "group", "task_id", "mode", "status")
_OF_ATTEMPT: Final = ("number", "worker", "started_at", "ended_at", "error_class")
_BRIEF: Final = sa.select(
    *(rollouts.c[name] for name in _OF_ROLLOUT), *(attempts.c[name] for name in _OF_ATTEMPT)
).join_from(
    rollouts,
    attempts,
    sa.and_(attempts.c.rollout_id == rollouts.c.id, attempts.c.number == _LAST),
    isouter=True,
)


@dataclass(frozen=True, slots=True)
class Brief(Value):
    """A rollout without its task's data and its spans."""

    position: int
    """Its place in the order in which rollouts were asked for."""
    id: str
    batch: str
    group: str
    task: str
    mode: Mode
    status: RolloutStatus
    attempts: int
    worker: str
    """Of the last attempt, as is all that follows; empty where there is none."""
    started_at: float | None
    ended_at: float | None
    error_class: str

    @property
    def seconds(self) -> float | None:
        """That the last attempt took; None if it has not ended."""
        if self.started_at is None or self.ended_at is None:
            return None
        return self.ended_at - self.started_at


class Listing(Records):
    """One run's records, read only."""

    def __init__(self, url: str) -> None:
        super().__init__(url, read_only=True)

    def after(self, position: int) -> Iterator[Brief]:
        """The rollouts that were asked for after the one at ``position``, in order."""
        while True:
            page = self._briefs(rollouts.c.position > position)
            yield from page
            if len(page) < _READ:
                return
            position = page[-1].position

    def unfinished(self) -> Sequence[Brief]:
        """Those that are queued or under way."""
        return self._briefs(rollouts.c.status.in_(_UNFINISHED), limit=None)

    def at(self, positions: Sequence[int]) -> Iterator[Brief]:
        """Those at these positions."""
        for start in range(0, len(positions), 500):
            yield from self._briefs(rollouts.c.position.in_(positions[start : start + 500]))

    def rewards_after(self, sequence: int) -> Iterator[Span]:
        """The spans of rewards that came after the one of this sequence number, in order."""
        while True:
            later = sa.select(spans).where(IS_REWARD, spans.c.sequence > sequence)
            with self._reading.connect() as connection:
                found = connection.execute(later.order_by(spans.c.sequence).limit(_READ)).all()
            yield from map(span_of, found)
            if len(found) < _READ:
                return
            sequence = found[-1].sequence

    def with_error(self, text: str) -> set[str]:
        """The ids of the rollouts that have an attempt with this in its error, in whatever case."""
        folded = text.casefold()
        failed = sa.select(attempts.c.rollout_id, attempts.c.error).where(attempts.c.error.is_not(None))
        with self._reading.connect() as connection:
            rows = connection.execute(failed, execution_options={"yield_per": _READ})
            return {id for id, error in rows if folded in error.casefold()}

    def with_text(self, ids: Collection[str], text: str) -> set[str]:
        """Those of the rollouts in whose task, or in the words of whose spans, this text stands, in whatever
        case. Decided here: databases know the case of some letters only, and each of others."""
        folded, within = text.casefold(), _escaped_json(text).casefold()
        data, attributes = (sa.type_coerce(column, sa.Text) for column in
                            (rollouts.c.data, spans.c.attributes))  # fmt: skip
        found: set[str] = set()
        with self._reading.connect() as connection:
            for chunk in chunks(list(ids)):
                of_task = sa.select(rollouts.c.id, data).where(rollouts.c.id.in_(chunk))
                for id, told in connection.execute(of_task, execution_options=_FEW):
                    if within in told.casefold():
                        found.add(id)
                left = [each for each in chunk if each not in found]
                of_spans = sa.select(spans.c.rollout_id, attributes).where(spans.c.rollout_id.in_(left))
                for id, told in connection.execute(of_spans, execution_options=_FEW):
                    # It may stand in tokens and names alone.
                    if id not in found and within in told.casefold() and _is_said(folded, told):
                        found.add(id)
        return found

    def _briefs(self, where: sa.ColumnElement[bool], limit: int | None = _READ) -> Sequence[Brief]:
        query = _BRIEF.where(where).order_by(rollouts.c.position).limit(limit)
        with self._reading.connect() as connection:
            return [_brief(row) for row in connection.execute(query)]


def _brief(row: Row[Any]) -> Brief:
    status, attempt = RolloutStatus(row.status), row.number or 0
    asked = row.position, row.id, row.batch, row.group, row.task_id, row.mode
    last = row.worker or "", row.started_at, row.ended_at, row.error_class or ""
    return Brief(*asked, status, attempt, *last)


def _is_said(folded: str, attributes: str) -> bool:
    """Whether it stands in the words of a span with these attributes, in whatever case."""
    return any(folded in said.casefold() for said in words(orjson.loads(attributes)))


def _escaped_json(text: str) -> str:
    """As it stands within a JSON text."""
    return orjson.dumps(text).decode()[1:-1]
