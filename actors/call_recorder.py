"""Spans on their way from the gateway into the store, many in one message."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from al_ray.errors import AttemptEndedError
from al_ray.types import Span

_log = logging.getLogger(__name__)


class CallRecorder:
    """Appends spans to the store; those that arrive while a message is under way share the next."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._pending: list[tuple[Span, asyncio.Future[None]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def record(self, span: Span) -> None:
        """Returns when the span is durable. Raises ``AttemptEndedError`` if its attempt has ended."""
        await self._add(span)

    def record_soon(self, span: Span) -> None:
        """For a span that nobody waits for, since its agent is gone."""
        self._add(span).add_done_callback(_note)

    def _add(self, span: Span) -> asyncio.Future[None]:
        recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((span, recorded))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        return recorded

    async def _send(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                outcomes = await self._store.append.remote([[span] for span, _ in batch])
            except Exception as error:  # none of them is known to be durable, and every caller is told
                outcomes = [error] * len(batch)
            for (_, recorded), outcome in zip(batch, outcomes, strict=True):
                if recorded.cancelled():
                    continue
                if outcome is None:
                    recorded.set_result(None)
                else:
                    recorded.set_exception(outcome)


def _note(recorded: asyncio.Future[None]) -> None:
    """An agent that hangs up often does so because its attempt has ended."""
    error = None if recorded.cancelled() else recorded.exception()
    if error is not None and not isinstance(error, AttemptEndedError):
        _log.error("a span could not be recorded", exc_info=error)
