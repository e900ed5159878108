"""How engines leave nodes that Ray takes away: spared new calls first, ended when they have none left."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Final

from al_ray.actors.engine.slot import LOST, Slot
from al_ray.actors.waiting import answered
from al_ray.machines.placement import ends_soon, time_left

_log = logging.getLogger(__name__)

_COUNT_SECONDS: Final = 5.0
"""In which an engine tells how many calls it is at."""


def spare(slots: Sequence[Slot], draining: Mapping[str, float]) -> None:
    """No more calls for the engines on these nodes, which are to go, as ``al_ray.machines.placement`` tells
    it. A later notice may bring the end of one that leaves forward, and puts none off."""
    for slot in slots:
        until = draining.get(slot.node)
        if slot.engine is not None and until is not None and (slot.leaves is None or until < slot.leaves):
            slot.leaves = until
            _log.warning("%s ends its calls: Ray takes its node away %s", slot, time_left(slot.leaves))


async def retire(slots: Sequence[Slot], changing: asyncio.Lock) -> None:
    """End the engines that were spared, each when it has no call or when its time is over, and let the next
    be elsewhere; ``changing`` is held while weights change. Those whose room is wanted are spared from now
    on."""
    await asyncio.gather(*(_retire(slot, changing) for slot in slots if slot.leaves is not None))
    for slot in slots:
        if slot.engine is not None and slot.leaves is None and await asyncio.to_thread(slot.seat.wanted):
            slot.leaves = math.inf
            _log.warning("%s ends its calls: learners or other engines have no room", slot)


async def _retire(slot: Slot, changing: asyncio.Lock) -> None:
    engine, leaves = slot.engine, slot.leaves
    if engine is None or leaves is None:
        return
    try:
        calls = await answered(engine.under_way.remote(), _COUNT_SECONDS, f"{slot}, asked for its calls,")
    except LOST:  # its keeper finds out
        return
    late = ends_soon(leaves)
    # Learners that send weights wait for every engine that they began with.
    if (calls == 0 or late) and slot.engine is engine and not changing.locked():
        _log.warning("%s leaves its node, with %d calls", slot, calls)
        slot.move()
