"""The agents of a run, as the driver holds them: asked for rollouts, they give groups that have ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from al_ray.actors.ray_errors import unwrapped
from al_ray.database.reader import Records
from al_ray.rollouts.requests import EVALUATIONS, TRAINING, evaluation_batch, judge_request, step_batch
from al_ray.types import Group, RetryRules, Rollout, RolloutRequest, RolloutStatus

_WATCH_SECONDS = 2.0
_GROUPS_READ = 64
"""At once: of a resumed evaluation thousands may have ended."""


class Kept(Protocol):
    """A part that is kept alive as long as that helps."""

    def failure(self) -> BaseException | None:
        """Why it could not be kept, if that happened."""
        ...


@dataclass(frozen=True, slots=True)
class Agents:
    """Runners run them; whoever answers their calls is not known here."""

    store: Any
    records: Records
    needs: Sequence[Kept]
    """The parts without which no rollout ends: the store, runners, gateways, services, the policy."""

    judges: RetryRules | None = None
    """How often the judge of a training group is asked; None: there is none."""

    async def rollouts(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sequence[Group]]:
        """Ask for the rollouts of one batch, and yield its groups as they are complete."""
        await self.ask(requests)
        async for groups in self.ended(requests):
            yield groups

    async def ask(self, requests: Sequence[RolloutRequest]) -> None:
        """Whoever asks twice has asked once."""
        with unwrapped():
            await self._answer(self.store.enqueue.remote(requests))

    async def withdraw(self, step: int, evaluation: int) -> None:
        """Take back what was asked for of the batches of ``step`` and later ones, and of evaluations after
        ``evaluation`` steps and more, and has not ended."""
        with unwrapped():
            await self._answer(self.store.withdraw.remote(TRAINING, step_batch(step)))
            await self._answer(self.store.withdraw.remote(EVALUATIONS, evaluation_batch(evaluation)))

    async def ended(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sequence[Group]]:
        """The groups of one batch, which was asked for, as they are complete, judged where they are to be.
        Raises what keeps them from ending."""
        if self.judges is None or requests[0].mode != "train":
            async for groups in self._ended(requests):
                yield groups
            return
        asked: list[RolloutRequest] = []
        async for groups in self._ended(requests):
            hopeless = [group for group in groups if not any(map(_succeeded, group.rollouts))]
            judges = [judge_request(group, self.judges) for group in groups if group not in hopeless]
            if judges:  # they work while other groups do
                await self.ask(judges)
            asked += judges
            if hopeless:
                yield hopeless
        if asked:
            async for judged in self._ended(asked):
                names = [group.id for group in judged]
                yield await asyncio.to_thread(self.records.groups, requests[0].batch, names)

    async def _ended(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sequence[Group]]:
        batch = requests[0].batch
        missing = {request.group for request in requests}
        done: list[str] = []
        while missing:
            names = await self._answer(self.store.finished_groups.remote(batch, done, _WATCH_SECONDS))
            done += names
            missing -= set(names)
            for start in range(0, len(names), _GROUPS_READ):
                some = names[start : start + _GROUPS_READ]
                yield await asyncio.to_thread(self.records.groups, batch, some)
            self._require_parts()

    async def _answer(self, asked: Awaitable[Any]) -> Any:
        """The store's, unless a part could not be kept meanwhile: a store that does not come up again never
        gives any."""
        answer = asyncio.ensure_future(asked)
        try:
            while not (await asyncio.wait({answer}, timeout=_WATCH_SECONDS))[0]:
                self._require_parts()
        finally:
            answer.cancel()
        return answer.result()

    def _require_parts(self) -> None:
        """Raises why one of them could not be kept."""
        if failure := next(filter(None, (part.failure() for part in self.needs)), None):
            raise failure


def _succeeded(rollout: Rollout) -> bool:
    return rollout.status is RolloutStatus.SUCCEEDED
