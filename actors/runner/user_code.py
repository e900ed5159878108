"""How the runner calls a function of the user's: so that it may block, and that what it prints is kept."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from al_ray.actors.agent.in_process import InTask, InThread
from al_ray.actors.agent.job import Running
from al_ray.actors.agent.outcome import Outcome
from al_ray.actors.agent.printed import Printed


class UserCode:
    """The calls of one runner. One that is awaited has ``grace`` seconds to heed its cancellation."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._left_behind: list[Running] = []

    async def called(self, function: Callable[..., Any], printed: Printed, *arguments: Any) -> Any:
        """What it returns. In a thread of its own, for a plain function may block, for good too: clocks and
        processes need the threads that others share. What it returns is awaited here, if need be. Raises
        what it raises."""
        context = printed.context()
        returned = await self._of(InThread(partial(Outcome.of, function, *arguments), context))
        if not inspect.isawaitable(returned):
            return returned
        task = asyncio.create_task(Outcome.awaited(returned), context=context)
        return await self._of(InTask(task, self._grace))

    async def _of(self, running: Running) -> Any:
        """What comes of it. It is ended where nobody waits for that any more, as far as it can be."""
        try:
            return await running.wait()
        finally:
            try:
                await running.end()
            finally:  # though whoever waits is cancelled once more
                if not running.ended:
                    self._left_behind.append(running)

    def still_there(self) -> int:
        """How many of the calls that nobody waits for any more have not ended."""
        self._left_behind = [running for running in self._left_behind if not running.ended]
        return len(self._left_behind)
