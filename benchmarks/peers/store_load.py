"""What both stores are asked to do: whole rollouts, by many runners at once.

Standard library only: Agent Lightning's side runs in an environment of its own.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final, Protocol

SPANS: Final = 20
ATTRIBUTES: Final = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "Qwen2.5-1.5B-Instruct",
    "gen_ai.request.temperature": 1.0,
    "gen_ai.usage.input_tokens": 300,
    "gen_ai.usage.output_tokens": 40,
    "gen_ai.response.id": "chatcmpl-5f1d7a84e0c94f0e9f0c3a5d1f6b7c88",
    "response_token_ids": list(range(1000, 1040)),
}
"""Of each span."""


class Side(Protocol):
    """A store as its driver and its runners use it; a rollout is named by its driver."""

    async def enqueue(self, names: Sequence[str]) -> None: ...

    async def claim(self, runner: str) -> Any:
        """An attempt at the next rollout, or None when all are claimed."""

    async def record(self, attempt: Any, number: int) -> None:
        """Returns when the store has span ``number``."""

    async def finish(self, attempt: Any) -> None: ...

    async def read(self, names: Sequence[str]) -> int:
        """Wait for the rollouts and read them whole; how many spans they have."""


async def rate(side: Side, runners: int, rollouts: int) -> float:
    """Whole rollouts a second: enqueued, claimed, recorded, finished and read."""
    load = uuid.uuid4().hex[:8]
    names = [f"{load}-{index}" for index in range(rollouts)]
    begun = time.perf_counter()
    await side.enqueue(names)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(side.read(names))
        for index in range(runners):
            tasks.create_task(_run(side, f"{load}-runner-{index}"))
    seconds = time.perf_counter() - begun
    if reading.result() != rollouts * SPANS:
        raise RuntimeError(f"{reading.result()} spans were read of {rollouts * SPANS}")
    return rollouts / seconds


async def _run(side: Side, runner: str) -> None:
    """One rollout after the other; each span is with the store before the next."""
    while (attempt := await side.claim(runner)) is not None:
        for number in range(SPANS):
            await side.record(attempt, number)
        await side.finish(attempt)
