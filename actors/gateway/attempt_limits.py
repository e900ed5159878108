"""How many calls an attempt may make, and how many tokens they may use."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from al_ray.actors.recent import Recent
from al_ray.actors.store.span_recorder import SpanRecorder
from al_ray.database.reader import Records
from al_ray.errors import LimitReachedError
from al_ray.traces import semconv
from al_ray.types import Attempt, Span, SpanKind

ATTEMPTS_REMEMBERED: Final = 10_000
"""Far more than are ever under way at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one attempt; None is no limit."""

    calls: int | None = None
    tokens: int | None = None
    """Of prompts and responses together."""


NO_LIMITS: Final = Limits()


@dataclass(slots=True)
class _Used:
    calls: int
    tokens: int


class AttemptLimits:
    """Counts what attempts use. What an attempt had used before it came here, the records tell."""

    def __init__(self, limits: Limits, records: Records, recorder: SpanRecorder) -> None:
        self._limits = limits
        self._records = records
        self._recorder = recorder
        self._used: Recent[tuple[str, int], _Used] = Recent(ATTEMPTS_REMEMBERED)

    async def admit(self, attempt: Attempt) -> None:
        """Count a call. Raises ``LimitReachedError``, and leaves an event with the attempt."""
        if self._limits == NO_LIMITS:
            return
        used = await self._of(attempt)
        for name, limit, so_far in (
            ("calls", self._limits.calls, used.calls),
            ("tokens", self._limits.tokens, used.tokens),
        ):
            if limit is not None and so_far >= limit:
                await self._recorder.record(_reached(attempt, name, limit))
                raise LimitReachedError(
                    f"agent.limits.{name}: the attempt has used {so_far} {name} of the {limit} that the "
                    "recipe allows one"
                )
        used.calls += 1

    def spend(self, attempt: Attempt, tokens: int) -> None:
        """Count the tokens of a call that was admitted."""
        if used := self._used.get((attempt.rollout_id, attempt.number)):
            used.tokens += tokens

    async def _of(self, attempt: Attempt) -> _Used:
        reference = attempt.rollout_id, attempt.number
        if reference not in self._used:
            calls, tokens = await asyncio.to_thread(self._records.usage, *reference)
            # Another call of the attempt may have been faster.
            return self._used.setdefault(reference, _Used(calls, tokens))
        return self._used[reference]


def _reached(attempt: Attempt, name: str, limit: int) -> Span:
    """One event for each limit, however often the agent tries."""
    now = time.time()
    return Span(
        id=f"{attempt.rollout_id}/{attempt.number}/limit/{name}",
        rollout_id=attempt.rollout_id,
        attempt=attempt.number,
        kind=SpanKind.EVENT,
        name="limit reached",
        start=now,
        end=now,
        attributes={semconv.LIMIT: name, semconv.LIMIT_VALUE: limit},
    )
