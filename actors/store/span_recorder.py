"""Spans on their way from a gateway into the run's database, made durable many at a time.

A gateway writes for itself: a call of the store actor would take longer than all the rest of a call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from al_ray.actors.store.group_commit import GroupCommit
from al_ray.actors.store.trace_exporter import TraceExporter
from al_ray.database.writer import Database
from al_ray.errors import AttemptEndedError
from al_ray.types import Span

_log = logging.getLogger(__name__)


class SpanRecorder:
    """Appends spans to the database, and offers those that are durable to the exporter, if there is one."""

    def __init__(self, database: Database, exporter: TraceExporter | None = None) -> None:
        self._database = database
        self._commits = GroupCommit(database.begin)
        self._exporter = exporter
        self._unawaited: set[asyncio.Task[None]] = set()

    async def append(self, batches: Sequence[Sequence[Span]]) -> Sequence[Exception | None]:
        """Returns when the spans are durable. Each batch belongs to one attempt and succeeds or fails for
        itself: with ``AttemptEndedError`` in its place if its attempt has ended."""
        # They will be durable though whoever waits for it hangs up, and so they are to be exported.
        return await asyncio.shield(asyncio.ensure_future(self._append(batches)))

    async def _append(self, batches: Sequence[Sequence[Span]]) -> Sequence[Exception | None]:
        outcomes = await self._commits.write(self._database.append, batches)
        if self._exporter:
            for spans, refused in zip(batches, outcomes, strict=True):
                if refused is None:
                    self._exporter.offer(spans)
        return outcomes

    async def record(self, span: Span) -> None:
        """Returns when the span is durable. Raises ``AttemptEndedError`` if its attempt has ended."""
        # To hand it to another thread and back would take longer.
        if self._database.append_at_once(span):
            if self._exporter:
                self._exporter.offer([span])
            return
        (refused,) = await self.append([[span]])
        if refused is not None:
            raise refused

    def record_soon(self, span: Span) -> None:
        """For a span that nobody waits for, since its agent is gone."""
        recording = asyncio.create_task(self.record(span))
        self._unawaited.add(recording)
        recording.add_done_callback(self._note)

    def _note(self, recording: asyncio.Task[None]) -> None:
        """An agent that hangs up often does so because its attempt has ended."""
        self._unawaited.discard(recording)
        error = None if recording.cancelled() else recording.exception()
        if error is not None and not isinstance(error, AttemptEndedError):
            _log.error("a span could not be recorded", exc_info=error)
