"""Spans: what is recorded of an attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from al_ray.types.value import JSON, Value


class SpanKind(StrEnum):
    """What a span records."""

    CALL = "call"
    REWARD = "reward"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class Span(Value):
    """One recorded event of an attempt; ``sequence``, issued by the store, rises with each arrival."""

    id: str
    rollout_id: str
    attempt: int
    kind: SpanKind
    name: str
    start: float
    end: float
    attributes: Mapping[str, JSON]
    sequence: int = -1
