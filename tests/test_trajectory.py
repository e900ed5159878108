"""From spans to transitions: order, rewards and choices."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from al_ray import semconv
from al_ray.trajectory import trajectory
from al_ray.types import JSON, Rollout, RolloutRequest, RolloutStatus, Span, SpanKind, Task

REQUEST = RolloutRequest("r", "b", "g", Task("t", {}))

Event = list[list[int]] | float | None
"""A call as the response tokens of its choices, a reward, or a span that is neither."""

tokens = st.lists(st.integers(0, 999), max_size=4)
rewards = st.floats(-1e6, 1e6)
calls = st.lists(tokens, min_size=1, max_size=3)
events = st.lists(st.one_of(calls, rewards, st.none()), max_size=8)


def _span(sequence: int, kind: SpanKind, attributes: dict[str, JSON]) -> Span:
    return Span(f"s{sequence}", "r", 1, kind, "n", -float(sequence), 0.0, attributes, sequence)


def _call(sequence: int, choices: Sequence[Sequence[int]], prompt: Sequence[int] = (1, 2)) -> Span:
    attributes = {
        semconv.PROMPT_IDS: list(prompt),
        semconv.FINISH_REASONS: [f"reason {index}" for index in range(len(choices))],
        semconv.CHOICES: [
            {
                "ids": list(ids),
                "logprobs": [-0.5 * token for token in ids],
                "versions": [[index + 5, 0, 1], [index + 4, 1, len(ids)]][: len(ids)],
            }
            for index, ids in enumerate(choices)
        ],
    }
    return _span(sequence, SpanKind.CALL, attributes)


def _spans(recorded: Sequence[Event]) -> list[Span]:
    return [
        _span(sequence, SpanKind.EVENT, {})
        if event is None
        else _call(sequence, event)
        if isinstance(event, list)
        else _span(sequence, SpanKind.REWARD, {semconv.REWARD: event})
        for sequence, event in enumerate(recorded)
    ]


def _rollout(spans: Sequence[Span]) -> Rollout:
    return Rollout(REQUEST, RolloutStatus.SUCCEEDED, spans=spans)


@given(events, st.randoms(use_true_random=False))
def test_only_the_sequence_orders_spans(recorded: list[Event], random: object) -> None:
    """However they are listed, and whatever their clocks say (here: backwards)."""
    spans = _spans(recorded)
    shuffled = list(spans)
    random.shuffle(shuffled)
    assert trajectory(_rollout(shuffled)) == trajectory(_rollout(spans))


@given(events)
def test_every_choice_with_tokens_is_one_transition_and_empty_ones_are_none(
    recorded: list[Event],
) -> None:
    transitions = trajectory(_rollout(_spans(recorded))).transitions
    expected = [
        (f"s{sequence}/{index}", tuple(ids))
        for sequence, event in enumerate(recorded)
        if isinstance(event, list)
        for index, ids in enumerate(event)
        if ids
    ]
    assert [(t.id, t.response_ids) for t in transitions] == expected


@given(events)
def test_a_reward_goes_to_the_call_before_it_and_all_of_them_are_the_return(
    recorded: list[Event],
) -> None:
    episode = trajectory(_rollout(_spans(recorded)))
    expected: dict[str, float] = {}
    last = None
    for sequence, event in enumerate(recorded):
        if isinstance(event, list):
            for index, ids in enumerate(event):
                if ids:
                    last = f"s{sequence}/{index}"
                    expected[last] = 0.0
        elif event is not None and last is not None:
            expected[last] += event
    assert {t.id: t.reward for t in episode.transitions} == expected
    total = math.fsum(event for event in recorded if isinstance(event, float))
    assert math.isclose(episode.reward, total, rel_tol=1e-9, abs_tol=1e-6)


def test_a_transition_tells_what_was_sampled_and_by_which_policy() -> None:
    (first, second) = trajectory(_rollout([_call(0, [[7, 8], [9]], prompt=[3, 4, 5])])).transitions
    assert first.prompt_ids == second.prompt_ids == (3, 4, 5)
    assert first.logprobs == (-3.5, -4.0)
    assert (first.policy_version, second.policy_version) == (4, 6), "the oldest that sampled a token"
    assert (first.finish_reason, second.finish_reason) == ("reason 0", "reason 1")


def test_a_rollout_without_calls_has_a_return_but_no_transitions() -> None:
    episode = trajectory(_rollout([_span(0, SpanKind.REWARD, {semconv.REWARD: 0.5})]))
    assert (episode.transitions, episode.reward) == ((), 0.5)
    assert (episode.rollout_id, episode.group, episode.task_id) == ("r", "g", "t")
