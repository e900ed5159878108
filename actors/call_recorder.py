"""Spans on their way from the gateway into the store, made durable many at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from al_ray.actors.coalescer import Coalescer
from al_ray.errors import AttemptEndedError
from al_ray.types import Span

_log = logging.getLogger(__name__)


class CallRecorder:
    """Appends spans to the store; those that arrive while a message is under way share the next."""

    def __init__(self, store: Any) -> None:
        self._append: Coalescer[Sequence[Span], None] = Coalescer(store.append.remote)
        self._unawaited: set[asyncio.Task[None]] = set()

    async def record(self, span: Span) -> None:
        """Returns when the span is durable. Raises ``AttemptEndedError`` if its attempt has ended."""
        await self._append([span])

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
