"""What user code returned or raised, as a value: whatever it raises goes no further by itself.

In an event loop a task that raises ``SystemExit`` or ``KeyboardInterrupt`` would end the process and
everybody's attempts; ``StopIteration`` passes through no future at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """One of the two."""

    value: Any = None
    error: BaseException | None = None

    @classmethod
    def of(cls, call: Callable[..., Any], *arguments: Any) -> Outcome:
        """Of a plain call."""
        try:
            return cls(call(*arguments))
        except BaseException as error:
            return cls(error=error)

    @classmethod
    async def awaited(cls, waiting: Awaitable[Any]) -> Outcome:
        """Of what is awaited; its cancellation alone is raised."""
        try:
            return cls(await waiting)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return cls(error=error)

    def get(self) -> Any:
        """What was returned. Raises what was raised."""
        if self.error is not None:
            raise self.error
        return self.value
