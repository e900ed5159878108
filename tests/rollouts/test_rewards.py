"""What a rollout was given, summed from its rewards alone, is what its trajectory says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from al_ray.rollouts.rewards import rewards
from al_ray.rollouts.trajectory import trajectory
from al_ray.traces.reward_span import reward_attributes
from al_ray.types import Rollout, RolloutRequest, RolloutStatus, Span, SpanKind, Task

GIVEN = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.dictionaries(st.sampled_from(["reward", "style"]), st.floats(-1e6, 1e6), min_size=1),
    ),
    max_size=6,
)


@given(GIVEN, st.randoms())
def test_rewards_equal_the_trajectorys_also_where_a_span_came_twice(
    given_rewards: list[tuple[str, dict[str, float]]], random: object
) -> None:
    spans = [
        Span(id, "r", 1, SpanKind.REWARD, "reward", 0, 0, reward_attributes(by_name), sequence)
        for sequence, (id, by_name) in enumerate(given_rewards)
    ]
    random.shuffle(spans)
    rollout = Rollout(RolloutRequest("r", "b", "g", Task("t", {})), RolloutStatus.SUCCEEDED, (), spans)
    assert rewards(rollout) == trajectory(rollout).rewards
