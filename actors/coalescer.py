"""Many awaits, few messages: what many tasks of a process ask of an actor leaves in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Coalescer(Generic[Item, Outcome]):
    """Sends items at once when no message is under way, else with all others in the next message.

    ``send`` answers each item with an outcome, or with the exception that its caller is to get.
    """

    def __init__(self, send: Callable[[list[Item]], Awaitable[Sequence[Outcome | Exception]]]) -> None:
        self._send = send
        self._pending: list[tuple[Item, asyncio.Future[Outcome]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Outcome:
        """The outcome of ``item``."""
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._pending.append((item, answered))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all())
        return await answered

    async def _send_all(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            outcomes: Sequence[Outcome | Exception]
            try:
                outcomes = await self._send([item for item, _ in batch])
            except Exception as error:  # none of them is known to be done, and every caller is told
                outcomes = [error] * len(batch)
            for (_, answered), outcome in zip(batch, outcomes, strict=True):
                if answered.cancelled():
                    continue
                if isinstance(outcome, Exception):
                    answered.set_exception(outcome)
                else:
                    answered.set_result(outcome)
