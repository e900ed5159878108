"""What a rollout was given, from the spans of its rewards alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from al_ray.traces.reward_span import rewards_of
from al_ray.types import Rollout, Span, SpanKind


def rewards(rollout: Rollout) -> Mapping[str, float]:
    """What the deciding attempt was given in each dimension, as far as the spans were read; of a span that
    arrived twice, the first counts."""
    spans: dict[str, Span] = {}
    for span in sorted(rollout.spans, key=lambda span: span.sequence):
        spans.setdefault(span.id, span)
    given = by_dimension(spans.values())
    return {name: math.fsum(given[name]) for name in sorted(given)}


def by_dimension(spans: Iterable[Span]) -> Mapping[str, Sequence[float]]:
    """What each of the rewards among ``spans`` gave in each dimension."""
    given: dict[str, list[float]] = {}
    for span in spans:
        if span.kind is SpanKind.REWARD:
            for name, value in rewards_of(span).items():
                given.setdefault(name, []).append(value)
    return given
