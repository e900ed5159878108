"""What a rollout was given, from the spans of its rewards alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

from al_ray.traces.reward_span import rewards_of
from al_ray.types import Rollout, Span, SpanKind


def rewards(rollout: Rollout) -> Mapping[str, float]:
    """What the deciding attempt was given in each dimension, as far as the spans were read; of a span that
    arrived twice, the first counts."""
    spans: dict[str, Span] = {}
    for span in sorted(rollout.spans, key=lambda span: span.sequence):
        if span.kind is SpanKind.REWARD:
            spans.setdefault(span.id, span)
    given: dict[str, list[float]] = {}
    for span in spans.values():
        for name, value in rewards_of(span).items():
            given.setdefault(name, []).append(value)
    return {name: math.fsum(given[name]) for name in sorted(given)}
