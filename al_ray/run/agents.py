"""The agents of a run, as the driver holds them: asked for rollouts, they give groups that have ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from al_ray.actors.ray_errors import unwrapped
from al_ray.database.judged import judge_batch
from al_ray.database.reader import Records
from al_ray.rollouts.requests import EVALUATIONS, TRAINING, evaluation_batch, judge_request, step_batch
from al_ray.types import Group, RetryRules, Rollout, RolloutRequest, RolloutStatus

_WATCH_SECONDS = 2.0
_GROUPS_READ = 64
"""At once: of a resumed evaluation thousands may have ended."""


class Part(Protocol):
    """One of a run's, which is kept alive as long as that helps."""

    def failure(self) -> BaseException | None:
        """Why it could not be kept, if that happened."""
        ...


@dataclass(frozen=True, slots=True)
class Agents:
    """Runners run them; whoever answers their calls is not known here."""

    store: Any
    records: Records
    needs: Sequence[Part]
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

    async def recorded(self, requests: Sequence[RolloutRequest]) -> float:
        """The share of the groups of one batch that have ended: before it is asked for, in an earlier life of
        the run, or before it went back to a checkpoint."""
        groups = {request.group for request in requests}
        ended = await asyncio.to_thread(self.records.finished_groups, requests[0].batch, ())
        return len(groups.intersection(ended)) / len(groups)

    async def withdraw(self, step: int, evaluation: int) -> None:
        """Take back what was asked for of the batches of ``step`` and later ones, and of evaluations after
        ``evaluation`` steps and more, and has not ended."""
        with unwrapped():
            await self._answer(self.store.withdraw.remote(TRAINING, step_batch(step)))
            await self._answer(self.store.withdraw.remote(EVALUATIONS, evaluation_batch(evaluation)))

    async def ended(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sequence[Group]]:
        """The groups of one batch, which was asked for, as they are complete, judged where they are to be.
        Raises what keeps them from ending."""
        batch, judges = requests[0].batch, self.judges if requests[0].mode == "train" else None
        missing = {batch: {request.group for request in requests}, judge_batch(batch): set[str]()}
        async with aclosing(self._finished(batch, missing)) as finished:
            async for name, groups in finished:
                if name != batch or judges is None:
                    yield groups
                    continue
                hopeless = [group for group in groups if not any(map(_succeeded, group.rollouts))]
                asked = [judge_request(group, judges) for group in groups if group not in hopeless]
                if asked:  # they work while other groups do
                    await self.ask(asked)
                    missing[judge_batch(batch)] |= {judge.group for judge in asked}
                if hopeless:
                    yield hopeless

    async def _finished(
        self, batch: str, missing: Mapping[str, set[str]]
    ) -> AsyncGenerator[tuple[str, Sequence[Group]]]:
        """The groups of ``batch`` that are ``missing`` from it or from the batch of its judges, with the name
        of that, as they are complete there. More may come to be missing meanwhile."""
        done: dict[str, list[str]] = {name: [] for name in missing}
        waiting: dict[str, asyncio.Future[list[str]]] = {}
        try:
            while any(missing.values()):
                for name in [name for name in missing if missing[name] and name not in waiting]:
                    asked = self.store.finished_groups.remote(name, list(done[name]), _WATCH_SECONDS)
                    waiting[name] = asyncio.ensure_future(self._answer(asked))
                await asyncio.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED)
                for name in [name for name, answer in waiting.items() if answer.done()]:
                    names = waiting.pop(name).result()
                    done[name] += names
                    missing[name].difference_update(names)
                    for start in range(0, len(names), _GROUPS_READ):
                        some = names[start : start + _GROUPS_READ]
                        yield name, await asyncio.to_thread(self.records.groups, batch, some)
                self._require_parts()
        finally:
            for answer in waiting.values():
                answer.cancel()

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
