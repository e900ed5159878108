"""A place in the pool: one engine after the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from al_ray.errors import UnresponsiveError
from al_ray.machines import cluster
from al_ray.machines.placement import Seat

LOST: Final = (RayError, UnresponsiveError)
"""By which an engine tells, or does not, that it is of no more use."""


@dataclass(slots=True)
class Slot:
    """For an engine, and for the next when that is gone."""

    number: int
    seat: Seat
    extra: bool
    """Nobody waits for its engine, and a run goes on without it."""
    starting: ActorHandle | None = None
    """It does not answer yet."""
    engine: ActorHandle | None = None
    node: str = ""
    """The id of Ray's node that the engine is on, or the last one was that came up."""
    admitted: bool = False
    """It holds the weights of the last update."""
    leaves: float | None = None
    """Its node is to go at this time, by ``time.time``: it is given no more calls."""
    blameless: bool = False
    """Nobody is to blame that the last engine is gone."""

    @property
    def answers(self) -> bool:
        """Whether its engine may be given calls."""
        return self.engine is not None and self.admitted and self.leaves is None

    def end(self) -> None:
        """Its engine, whether or not it answers."""
        for actor in (self.starting, self.engine):
            if actor is not None:
                ray.kill(actor)
        self.starting, self.engine, self.admitted, self.leaves = None, None, False, None

    def dismiss(self) -> None:
        """End its engine, which is not to blame."""
        self.end()
        self.blameless = True

    def move(self) -> None:
        """End its engine; the next is to be on another node."""
        self.dismiss()
        self.seat.release()

    async def excused(self) -> bool:
        """Whether it is nobody's fault that there is no engine: its node was taken away, or went; and one
        that nobody waits for may be on a node that lacks what others have."""
        blameless, self.blameless = self.blameless, False
        if blameless:
            return True
        if self.node == "":
            return self.extra
        return self.node not in await asyncio.to_thread(cluster.node_ids)

    def __str__(self) -> str:
        return f"engine {self.number}"
