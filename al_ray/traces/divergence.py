"""The event of an attempt that repeats a recorded rollout and asked otherwise than that did: written and read
back."""

from __future__ import annotations

import time
from dataclasses import dataclass

from al_ray.traces import semconv
from al_ray.types import Span, SpanKind


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where an attempt left the rollout that it repeats."""

    call: int
    """Which of the recorded calls it made otherwise, 1 the first."""
    difference: str
    """The first one: where, what was recorded, and what was asked."""


def divergence_span(rollout_id: str, attempt: int, told: Divergence) -> Span:
    """An attempt has one at most."""
    now = time.time()
    return Span(
        id=_id(rollout_id, attempt),
        rollout_id=rollout_id,
        attempt=attempt,
        kind=SpanKind.EVENT,
        name="replay diverged",
        start=now,
        end=now,
        attributes={semconv.DIVERGED_CALL: told.call, semconv.DIFFERENCE: told.difference},
    )


def divergence_of(span: Span) -> Divergence | None:
    """What the span tells, if it is the gateway's own: an agent's events have other ids."""
    if span.id != _id(span.rollout_id, span.attempt):
        return None
    return Divergence(span.attributes[semconv.DIVERGED_CALL], span.attributes[semconv.DIFFERENCE])


def _id(rollout_id: str, attempt: int) -> str:
    return f"{rollout_id}/{attempt}/diverged"
