"""Group commit: all writes that arrive while a transaction is under way share the next one.

Writes of a kind are done together, which costs little more than one. Each succeeds or fails for itself,
and nobody is told of an outcome before it is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy.engine import Connection

Operation = Callable[[Connection, Sequence[Any]], Sequence[Any]]
"""Does many writes of one kind at once; an outcome each."""


@dataclass(frozen=True, slots=True)
class _Write:
    operation: Operation
    items: Sequence[Any]
    outcomes: asyncio.Future[Sequence[Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class GroupCommit:
    """``begin`` gives a connection whose writes are durable when its context ends."""

    def __init__(self, begin: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._begin = begin
        self._pending: list[_Write] = []
        self._committing: asyncio.Task[None] | None = None

    async def write(self, operation: Operation, items: Sequence[Any]) -> Sequence[Any]:
        """The outcomes of the items, or the exceptions in their places, once all are durable."""
        write = _Write(operation, items)
        self._pending.append(write)
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all())
        return await write.outcomes

    async def _commit_all(self) -> None:
        while self._pending:
            writes, self._pending = self._pending, []
            try:
                outcomes: Iterable[Sequence[Any]] = await asyncio.to_thread(self._commit, writes)
            except Exception as error:  # nothing of this commit is durable, and every caller is told
                outcomes = [[error] * len(write.items) for write in writes]
            for write, outcome in zip(writes, outcomes, strict=True):
                if not write.outcomes.cancelled():
                    write.outcomes.set_result(outcome)

    def _commit(self, writes: Sequence[_Write]) -> list[Sequence[Any]]:
        """One transaction."""
        kinds: dict[Operation, list[int]] = {}
        for index, write in enumerate(writes):
            kinds.setdefault(write.operation, []).append(index)
        outcomes: list[Sequence[Any]] = [()] * len(writes)
        with self._begin() as connection:
            for operation, indices in kinds.items():
                items = [item for index in indices for item in writes[index].items]
                done = iter(_together_or_each(connection, operation, items))
                for index in indices:
                    outcomes[index] = list(islice(done, len(writes[index].items)))
        return outcomes


def _together_or_each(connection: Connection, operation: Operation, items: Sequence[Any]) -> Sequence[Any]:
    """Outcomes; where one item spoils it for all, each is done for itself, and fails for itself."""
    try:
        with connection.begin_nested():
            return operation(connection, items)
    except Exception as error:  # handed to the caller who asked for this write
        if len(items) == 1:
            return [error]
    return [outcome for item in items for outcome in _together_or_each(connection, operation, [item])]
