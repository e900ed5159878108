"""What a rollout was given, from the spans of its rewards alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

from al_ray.traces.reward_span import rewards_of
from al_ray.types import Rollout, SpanKind


def rewards(rollout: Rollout) -> Mapping[str, float]:
    """What the deciding attempt was given in each dimension, as far as the spans were read; a span that
    arrived twice counts once."""
    spans = {span.id: span for span in rollout.spans if span.kind is SpanKind.REWARD}
    given: dict[str, list[float]] = {}
    for span in spans.values():
        for name, value in rewards_of(span).items():
            given.setdefault(name, []).append(value)
    return {name: math.fsum(given[name]) for name in sorted(given)}
