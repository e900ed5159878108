"""A rollout's story tells all that happened, once, in an order that a reader can follow."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from al_ray.rollouts.reading.story import ToldCall, ToldEvent, ToldReward, story
from al_ray.traces import semconv
from al_ray.types import JSON, Rollout, RolloutRequest, RolloutStatus, Span, SpanKind, Task

USER = {"role": "user", "content": "What is 2 + 3?"}
ANSWER = {"role": "assistant", "content": "5"}
KINDS = list(SpanKind)


def rollout(*spans: Span) -> Rollout:
    return Rollout(RolloutRequest("r", "b", "g", Task("t", {})), RolloutStatus.SUCCEEDED, (), spans)


def span(sequence: int, kind: SpanKind, **attributes: JSON) -> Span:
    told: dict[str, Any] = {getattr(semconv, name): value for name, value in attributes.items()}
    return Span(f"s{sequence}", "r", 1, kind, f"n{sequence}", sequence, sequence + 0.5, told, sequence)


def call(sequence: int, sent: list[JSON], **attributes: JSON) -> Span:
    tokens = [{"ids": [7, 8], "logprobs": [-1.0, -1.0], "versions": [[4, 1, 2], [3, 0, 1]]}]
    known = {"INPUT_MESSAGES": sent, "OUTPUT_MESSAGES": [ANSWER], "FINISH_REASONS": ["stop"]}
    return span(sequence, SpanKind.CALL, CHOICES=tokens, INPUT_TOKENS=11, **known, **attributes)


def test_what_encloses_comes_first_and_a_reward_stands_within_the_call_that_earned_it() -> None:
    inside = {"PARENT_ID": "s4"}
    told = list(
        story(
            rollout(
                call(0, [USER], **inside),
                call(1, [USER, ANSWER, USER], **inside),
                span(2, SpanKind.REWARD, REWARD=0.5, REWARD_CALL="s0"),
                span(3, SpanKind.REWARD, REWARD_DIMENSIONS={"reward": 1.0, "style": 0.25}),
                span(4, SpanKind.EVENT, OPERATION="invoke_agent", AGENT_NAME="solver", ERROR_TYPE="KeyError"),
            )
        )
    )
    assert [(each.id, each.depth) for each in told] == [("s4", 0), ("s0", 1), ("s2", 2), ("s1", 1), ("s3", 0)]
    agent, first, step, second, reward = told
    assert isinstance(agent, ToldEvent) and isinstance(first, ToldCall) and isinstance(second, ToldCall)
    assert (agent.name, agent.seconds, agent.attributes) == ("solver", 0.5, {semconv.ERROR_TYPE: "KeyError"})
    assert [(each.number, each.agent) for each in (first, second)] == [(1, "solver"), (2, "solver")]
    assert (first.earlier, first.messages) == (0, [USER])
    assert (second.earlier, second.messages) == (2, [USER]), "only what no call before it has told"
    assert first.answers[0].choice.message == ANSWER and first.answers[0].versions == [3, 4]
    assert (first.seconds, first.prompt_tokens) == (0.5, 11)
    assert isinstance(step, ToldReward) and step.rewards == {"reward": 0.5}
    assert isinstance(reward, ToldReward) and reward.rewards == {"reward": 1.0, "style": 0.25}


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.none() | st.integers(0, 7)), max_size=8), st.randoms())
def test_every_span_is_told_once_whatever_encloses_what_and_in_whatever_order_they_came(
    drawn: list[tuple[SpanKind, int | None]], random: Any
) -> None:
    spans = []
    for sequence, (kind, parent) in enumerate(drawn):
        place: dict[str, JSON] = {} if parent is None else {"PARENT_ID": f"s{parent}"}
        if kind is SpanKind.CALL:
            spans.append(call(sequence, [USER], **place))
        else:
            spans.append(span(sequence, kind, OPERATION="execute_tool", REWARD=1.0, **place))
    told = list(story(rollout(*spans)))
    assert sorted(each.id for each in told) == sorted(each.id for each in spans)
    random.shuffle(spans)
    assert list(story(rollout(*spans))) == told
