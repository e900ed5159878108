"""A place in the pool: one engine after the other."""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray.actor import ActorHandle

from al_ray.machines.placement import Seat


@dataclass(slots=True)
class Slot:
    """For an engine, and for the next when that is gone."""

    number: int
    seat: Seat
    starting: ActorHandle | None = None
    """It does not answer yet."""
    engine: ActorHandle | None = None
    node: str = ""
    """The id of Ray's node that the engine is on."""
    admitted: bool = False
    """It holds the weights of the last update."""
    leaves: float | None = None
    """Its node is to go at this time, by ``time.time``: it is given no more calls."""
    moving: bool = False
    """The last engine was not lost, but ended because its node is to go."""
    waits: bool = False
    """There is no room for its next engine."""

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

    def move(self) -> None:
        """End its engine; the next is to be on another node."""
        self.end()
        self.moving = True
        self.seat.move()

    def __str__(self) -> str:
        return f"engine {self.number}"
