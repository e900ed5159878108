"""What ends a command in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def run(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """``asyncio.run``, which SIGTERM interrupts as Ctrl-C does: what is under way is cancelled, once, and has
    the time to end. So is a command in the background of a script, for which Ctrl-C is nothing."""
    of_interrupt, of_termination = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    if of_interrupt is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # or asyncio would not set up its own

    async def inside() -> _Result:
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
        if of_interrupt is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return await coroutine

    try:
        return asyncio.run(inside())
    finally:
        signal.signal(signal.SIGTERM, of_termination)
