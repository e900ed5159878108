"""How the runner calls a function of the user's: so that it may block, and that what it prints is kept."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from al_ray.actors.agent.outcome import Outcome
from al_ray.actors.agent.printed import Printed


async def called(function: Callable[..., Any], printed: Printed, *arguments: Any) -> Any:
    """What it returns. In a thread, for a plain function may block; what that returns is awaited here, if
    need be. Raises what it raises."""
    context = printed.context()
    outcome = await asyncio.to_thread(context.run, Outcome.of, function, *arguments)
    returned = outcome.get()
    if not inspect.isawaitable(returned):
        return returned
    return (await asyncio.create_task(Outcome.awaited(returned), context=context)).get()
