"""Rollouts of a batch that were asked for, gathered as they end: also while learners work on another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from al_ray.run.agents import Agents
from al_ray.run.stages.history import Tries
from al_ray.types import Group, RolloutRequest

Progress = Callable[[int, int], None]
"""Told how many rollouts have ended, of how many."""


class Asked:
    """``tries`` is what a curriculum went by when they were chosen; ``recorded`` the share of the groups that
    had ended before they were asked for."""

    def __init__(
        self, agents: Agents, requests: Sequence[RolloutRequest], tries: Tries, recorded: float
    ) -> None:
        self.tries = tries
        self.recorded = recorded
        self._requests = requests
        self._groups: list[Group] = []
        self._progress: Progress = _to_nobody
        self._gathering = asyncio.create_task(self._gather(agents))

    @classmethod
    async def of(cls, agents: Agents, requests: Sequence[RolloutRequest], tries: Tries) -> Asked:
        """Ask for them; they are known to the store when this returns, and judged as their groups end."""
        recorded = await agents.recorded(requests)
        await agents.ask(requests)
        return cls(agents, requests, tries, recorded)

    @property
    def ended(self) -> float:
        """The share of the rollouts whose groups have ended."""
        return sum(len(group.rollouts) for group in self._groups) / len(self._requests)

    async def groups(self, progress: Progress) -> Sequence[Group]:
        """All of them, once they have ended. Raises what keeps them from it."""
        self._progress = progress
        self._tell()
        await self._gathering
        return self._groups

    async def leave(self) -> None:
        """Nobody waits for them any more; what the agents do is not changed."""
        self._gathering.cancel()
        await asyncio.gather(self._gathering, return_exceptions=True)

    async def _gather(self, agents: Agents) -> None:
        async for ended in agents.ended(self._requests):
            self._groups += ended
            self._tell()

    def _tell(self) -> None:
        self._progress(sum(len(group.rollouts) for group in self._groups), len(self._requests))


def _to_nobody(ended: int, asked: int) -> None:
    pass
