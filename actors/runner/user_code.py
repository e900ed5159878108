"""How the runner calls a function of the user's: so that it may block, and that what it prints is kept."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from al_ray.actors.agent.in_process import InThread
from al_ray.actors.agent.job import Running
from al_ray.actors.agent.outcome import Outcome
from al_ray.actors.agent.printed import Printed


class UserCode:
    """The calls of one runner."""

    def __init__(self) -> None:
        self._left_behind: list[Running] = []

    async def called(self, function: Callable[..., Any], printed: Printed, *arguments: Any) -> Any:
        """What it returns. In a thread of its own, for a plain function may block, for good too: clocks and
        processes need the threads that others share. What it returns is awaited here, if need be. Raises
        what it raises."""
        context = printed.context()
        thread = InThread(partial(Outcome.of, function, *arguments), context)
        try:
            returned = await thread.wait()
        finally:
            if not thread.ended:
                self._left_behind.append(thread)
        if not inspect.isawaitable(returned):
            return returned
        return (await asyncio.create_task(Outcome.awaited(returned), context=context)).get()

    def still_there(self) -> int:
        """How many of the calls that nobody waits for any more have not ended."""
        self._left_behind = [thread for thread in self._left_behind if not thread.ended]
        return len(self._left_behind)
