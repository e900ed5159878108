"""The tasks by which a pool keeps its processes alive, one for each, how many it may lose, and when
those that nobody waits for are tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Final

EXTRA_SECONDS: Final = 30.0
"""Until one that nobody waits for is tried again where it could not start: its node may lack something."""
MAX_LOST: Final = 5
"""Processes of a kind that are lost, after which it is not by chance: engines since the weights changed last
(some call kills whichever answers it), gateways and learners as they start, and learners since a run got to
a further step."""


class Keepers:
    """Each runs until it is cancelled, or raises why its process cannot be kept."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, keeping: Iterable[Coroutine[None, None, None]]) -> None:
        self._tasks = [asyncio.create_task(keep) for keep in keeping]

    def failure(self) -> BaseException | None:
        """What ended one of them for good, if anything did."""
        ended = (task for task in self._tasks if task.done() and not task.cancelled())
        return next((error for task in ended if (error := task.exception())), None)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
