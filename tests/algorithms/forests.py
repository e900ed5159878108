"""Groups of rollouts as agents make them, for tests of everything that is computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import strategies as st

from al_ray.types import Trajectory, Transition

REWARDS = st.floats(-4, 4, width=16)


def call(id: str, reward: float = 0.0, agent: str = "a", **more: object) -> Transition:
    """Of one token."""
    return Transition(id, agent, (1,), (2,), (-1.0,), 0, reward, **more)  # type: ignore[arg-type]


def episode(*rewards: float) -> Trajectory:
    """Of calls that earned these."""
    return of([call(str(i), reward) for i, reward in enumerate(rewards)])


def of(calls: Sequence[Transition], rollout: str = "r", more: float = 0.0) -> Trajectory:
    """What each of several choices' call earned counts once."""
    whole = {t.of_call: t.call_reward for t in calls}
    total = math.fsum([*(t.reward for t in calls), *whole.values(), more])
    return Trajectory(rollout, "g", "t", tuple(calls), total)


@st.composite
def rollouts(draw: st.DrawFn, name: str) -> Trajectory:
    """Up to four calls of two agents, of up to two choices each; not all are trained, and prompts recur."""
    calls: list[Transition] = []
    for number in range(draw(st.integers(1, 4))):
        agent, trained = draw(st.sampled_from("ab")), draw(st.booleans()) or number == 0
        prompt = tuple(draw(st.lists(st.integers(1, 2), min_size=1, max_size=2)))
        whole = draw(REWARDS)
        for choice in range(draw(st.sampled_from([1, 1, 2]))):
            size = draw(st.integers(1, 3))
            calls.append(
                Transition(
                    id=f"{name}/{number}/{choice}",
                    agent=agent,
                    prompt_ids=prompt,
                    response_ids=tuple(draw(st.lists(st.integers(3, 9), min_size=size, max_size=size))),
                    logprobs=(-1.0,) * size,
                    policy_version=0,
                    reward=draw(REWARDS),
                    call=f"{name}/{number}",
                    call_reward=whole,
                    trained=trained,
                )
            )
    return of(calls, name, draw(REWARDS))


GROUPS = st.integers(2, 4).flatmap(lambda count: st.tuples(*(rollouts(f"r{i}") for i in range(count))))
BATCHES = st.lists(GROUPS, min_size=1, max_size=3)
