"""The span of a reward: written and read back here alone. (``tracing``, which stands alone, writes the same;
``sdk_names`` translates what other SDKs write.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from al_ray.traces import semconv
from al_ray.types import JSON, Span

PRIMARY: Final = "reward"
"""The dimension of a reward that has no name of its own."""

LARGEST: Final = 1e30
"""What a reward may be, either way: sums and squares of such are still numbers."""


def reward_attributes(rewards: Mapping[str, float], primary: float | None = None) -> dict[str, JSON]:
    """Of rewards by dimension. ``primary``, which other tools show, is by default the one called ``reward``,
    else the first."""
    if primary is None:
        primary = rewards.get(PRIMARY, next(iter(rewards.values())))
    return {semconv.REWARD: primary, semconv.REWARD_DIMENSIONS: dict(rewards)}


def rewards_of(span: Span) -> Mapping[str, float]:
    """The rewards of a reward span by dimension."""
    unnamed = {PRIMARY: span.attributes[semconv.REWARD]} if semconv.REWARD in span.attributes else {}
    named = unnamed | span.attributes.get(semconv.REWARD_DIMENSIONS, {})
    return {name: float(value) for name, value in named.items()}
