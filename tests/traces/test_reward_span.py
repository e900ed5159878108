"""Rewards by dimension are read back as they were written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from al_ray.traces import semconv
from al_ray.traces.reward_span import reward_attributes, rewards_of
from al_ray.types import Span, SpanKind

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def span(attributes: dict[str, object]) -> Span:
    return Span("s", "r", 1, SpanKind.REWARD, "reward", 0.0, 0.0, attributes)


@given(st.dictionaries(st.text(max_size=3), FINITE, min_size=1))
def test_dimensions_are_read_back(rewards: dict[str, float]) -> None:
    attributes = reward_attributes(rewards)
    read = rewards_of(span(attributes))
    assert {name: read[name] for name in rewards} == rewards
    assert attributes[semconv.REWARD] == rewards.get("reward", next(iter(rewards.values())))


def test_one_without_a_name_is_the_reward() -> None:
    assert rewards_of(span({semconv.REWARD: 2})) == {"reward": 2.0}
    assert rewards_of(span(reward_attributes({"style": 0.5}, 1.0))) == {"reward": 1.0, "style": 0.5}
