"""Group commit: all writes that arrive while a transaction is under way share the next one.

Writes of a kind are done together, which costs little more than one. Each succeeds or fails for itself,
and nobody is told of an outcome before it is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from al_ray.errors import StoreError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

Operation: TypeAlias = "Callable[[Connection, Sequence[Any]], Sequence[Any]]"
"""Does many writes of one kind at once; an outcome each."""
Begin: TypeAlias = "Callable[[], AbstractContextManager[Connection]]"


@dataclass(frozen=True, slots=True)
class _Write:
    operation: Operation
    items: Sequence[Any]
    outcomes: asyncio.Future[Sequence[Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class GroupCommit:
    """``begin`` gives a connection whose writes are durable when its context ends."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._pending: list[_Write] = []
        self._committing: asyncio.Task[None] | None = None
        self.failure: StoreError | None = None
        """Why nothing of the last commit is durable, if the store cannot be written."""

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
                outcomes = await asyncio.to_thread(_commit, self._begin, writes)
                self.failure = None
            except Exception as error:  # nothing of this commit is durable, and every caller is told
                outcomes = [[error] * len(write.items) for write in writes]
                self.failure = error if isinstance(error, StoreError) else None
            for write, outcome in zip(writes, outcomes, strict=True):
                if not write.outcomes.cancelled():
                    write.outcomes.set_result(outcome)


def _commit(begin: Begin, writes: Sequence[_Write]) -> list[Sequence[Any]]:
    """In one transaction; where one item spoils it, in another one that does each item for itself."""
    from sqlalchemy.exc import OperationalError

    try:
        with begin() as connection:
            return _done(writes, partial(_together, connection))
    except (OperationalError, StoreError):  # the database's own trouble: it would only be waited for twice
        raise
    except Exception:  # nothing is done so far; whose fault it was shows when each is done for itself
        with begin() as connection:
            return _done(writes, partial(_each, connection))


def _done(
    writes: Sequence[_Write], do: Callable[[Operation, Sequence[Any]], Sequence[Any]]
) -> list[Sequence[Any]]:
    """The outcomes, by write."""
    kinds: dict[Operation, list[int]] = {}
    for index, write in enumerate(writes):
        kinds.setdefault(write.operation, []).append(index)
    outcomes: list[Sequence[Any]] = [()] * len(writes)
    for operation, indices in kinds.items():
        done = iter(do(operation, [item for index in indices for item in writes[index].items]))
        for index in indices:
            outcomes[index] = list(islice(done, len(writes[index].items)))
    return outcomes


def _together(connection: Connection, operation: Operation, items: Sequence[Any]) -> Sequence[Any]:
    return operation(connection, items)


def _each(connection: Connection, operation: Operation, items: Sequence[Any]) -> Sequence[Any]:
    """Each fails for itself: its exception stands in the place of its outcome."""
    outcomes: list[Any] = []
    for item in items:
        try:
            with connection.begin_nested():
                outcomes += operation(connection, [item])
        except Exception as error:  # handed to the caller who asked for this write
            outcomes.append(error)
    return outcomes
