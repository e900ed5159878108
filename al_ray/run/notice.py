"""Ray's notice that a node is to go which a run cannot do without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from al_ray.machines.placement import time_left
from al_ray.reports.console import Console
from al_ray.run.policy import Policy

_LOOK_SECONDS: Final = 1.0
"""At what the policy knows, which asks Ray."""


async def heed(policy: Policy, save: Callable[[], Awaitable[None]], console: Console) -> None:
    """Let a checkpoint be written as soon as a node is to go that is among the policy's homes, and again as
    long as it is there: ``save`` knows what is saved already, or cannot be. Goes on until it is cancelled."""
    told: set[str] = set()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if not (going := policy.going):
            continue
        concerned = {node: who for node, who in (await policy.homes()).items() if node in going}
        for node in concerned.keys() - told:
            told.add(node)
            when = time_left(going[node])
            console.warning(
                f"Ray takes the node of {concerned[node]} away {when}: until then there is a checkpoint "
                "after each step, and one now"
            )
        if concerned:
            await save()
