"""From spans to transitions: order, choices, rewards; agents and noise are in ``test_nesting``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.errors import UnreadableError, UserError
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.trajectory import require_named, trajectory
from al_ray.traces import semconv
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
    """Of a call with several choices they are what it earned as a whole, which each of them tells."""
    episode = trajectory(_rollout(_spans(recorded)))
    earned: dict[str, list[float]] = {}
    choices: dict[str, int] = {}
    last = None
    for sequence, event in enumerate(recorded):
        if isinstance(event, list) and (spoken := sum(map(bool, event))):
            last = f"s{sequence}"
            earned[last], choices[last] = [], spoken
        elif isinstance(event, float) and last is not None:
            earned[last].append(event)
    for t in episode.transitions:
        total = math.fsum(earned[t.call])
        assert (t.reward, t.call_reward) == ((total, 0.0) if choices[t.call] == 1 else (0.0, total))
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


def _reward(sequence: int, **attributes: JSON) -> Span:
    return _span(sequence, SpanKind.REWARD, {f"al_ray.{name}": value for name, value in attributes.items()})


def _rewards(spans: Sequence[Span]) -> dict[str, float]:
    return {t.id: t.reward for t in trajectory(_rollout(spans)).transitions}


def test_a_reward_that_names_its_call_finds_it_whatever_came_between() -> None:
    named = {semconv.REWARD: 2.0, semconv.REWARD_CALL: "s0"}
    spans = [_call(0, [[7]]), _call(1, [[8]]), _span(2, SpanKind.REWARD, named)]
    assert _rewards(spans) == {"s0/0": 2.0, "s1/0": 0.0}


@pytest.mark.parametrize(
    ("name", "alone", "together"),
    [("s0", [], ["s0/0", "s0/1", "s0/2"]), ("s0/1", ["s0/1"], []), ("s0/0", ["s0/0"], [])],
)
def test_of_several_choices_the_named_one_is_rewarded_and_their_call_where_none_is(
    name: str, alone: list[str], together: list[str]
) -> None:
    reward = _span(2, SpanKind.REWARD, {semconv.REWARD: 2.0, semconv.REWARD_CALL: name})
    episode = trajectory(_rollout([_call(0, [[7], [8], [9]]), _call(1, [[8]]), reward]))
    assert [t.id for t in episode.transitions if t.reward] == alone
    assert [t.id for t in episode.transitions if t.call_reward] == together


@pytest.mark.parametrize("name", ["s1/0", "s1/1"])
def test_what_a_choice_without_tokens_earned_is_no_other_choices(name: str) -> None:
    """The call before bears it; it came to this."""
    choices = [[7], [8]]
    choices[int(name[-1])] = []
    reward = _span(2, SpanKind.REWARD, {semconv.REWARD: -1.0, semconv.REWARD_CALL: name})
    spans = [_call(0, [[7]]), _call(1, choices), reward]
    assert [*_rewards(spans).values()] == [-1.0, 0.0]
    assert trajectory(_rollout(spans[1:])).reward == -1.0, "in the return at least"
    assert [*_rewards(spans[1:]).values()] == [0.0]


def test_a_reward_that_names_a_call_that_never_came_goes_to_the_call_before_it() -> None:
    reward = _span(1, SpanKind.REWARD, {semconv.REWARD: 2.0, semconv.REWARD_CALL: "lost"})
    assert _rewards([_call(0, [[7]]), reward]) == {"s0/0": 2.0}


def test_the_recipe_picks_the_dimension_that_is_learnt_from() -> None:
    dimensions = {"reward": 1.0, "format": 0.25, "length": -3.0}
    spans = [_call(0, [[7]]), _reward(1, reward=1.0, **{"reward.dimensions": dimensions})]
    episode = trajectory(_rollout(spans), TransitionsSection(reward="format"))
    assert (episode.reward, episode.transitions[0].reward, episode.rewards) == (0.25, 0.25, dimensions)
    assert trajectory(_rollout(spans)).reward == 1.0


def test_the_terminal_reward_is_what_came_last_and_for_no_call_in_particular() -> None:
    for_a_call = {semconv.REWARD: 4.0, semconv.REWARD_CALL: "s2"}
    spans = [_call(0, [[7]]), _reward(1, reward=1.0), _call(2, [[8]])]
    spans += [_span(3, SpanKind.REWARD, for_a_call), _reward(4, reward=2.0)]
    episode = trajectory(_rollout(spans))
    assert (episode.terminal_reward, episode.reward) == (2.0, 7.0)
    assert _rewards(spans) == {"s0/0": 1.0, "s2/0": 6.0}


def test_aborted_and_hosted_calls_give_no_transition_and_are_counted() -> None:
    """What they were rewarded goes to the transition before them."""
    aborted = _call(1, [[7], [8]])
    aborted.attributes[semconv.FINISH_REASONS][:] = ["aborted", "stop"]  # type: ignore[index]
    hosted = _span(2, SpanKind.CALL, {semconv.FINISH_REASONS: ["stop"]})
    reward = _span(3, SpanKind.REWARD, {semconv.REWARD: 2.0, semconv.REWARD_CALL: "s2"})
    spans = [_call(0, [[7], []]), aborted, hosted, reward]
    assert _rewards(spans) == {"s0/0": 0.0, "s1/1": 2.0}
    assert trajectory(_rollout(spans)).left_out == {"empty": 1, "aborted": 1, "no_token_ids": 1}


def test_a_recipe_that_names_a_reward_or_an_agent_that_there_is_not_is_refused() -> None:
    settings = TransitionsSection(train=["writer"], reward="accuracy")
    episode = trajectory(_rollout([_call(0, [[7]]), _reward(1, reward=1.0)]), settings)
    with pytest.raises(UserError, match="there are: reward") as error:
        require_named(settings, [episode])
    assert "transitions.train: ['writer']: no agent that made a call has such a name" in str(error.value)
    require_named(settings, [])
    require_named(TransitionsSection(), [trajectory(_rollout([_call(0, [[7]])]))])


def test_calls_that_frozen_policies_alone_answered_are_told_as_such() -> None:
    """Their agent's name is one that is trained; a policy for the rest took what came without a name, say."""
    call = _call(0, [[7]])
    call.attributes.update({semconv.POLICY: "rest", semconv.FROZEN: True})  # type: ignore[attr-defined]
    with pytest.raises(
        UserError, match=r"policies: 'rest': are frozen, and answered every call of .*: of ''"
    ):
        require_named(TransitionsSection(), [trajectory(_rollout([call]))])


def test_a_named_choice_of_thousands_of_digits_is_none() -> None:
    """Python reads no integer of so many digits; the reward is the last call's."""
    named = {semconv.REWARD: 2.0, semconv.REWARD_CALL: "s0/" + "9" * 5000}
    spans = [_call(0, [[7]]), _call(1, [[8]]), _span(2, SpanKind.REWARD, named)]
    assert _rewards(spans) == {"s0/0": 2.0, "s1/0": 0.0}


@pytest.mark.parametrize("arguments", ['{"a": ' + "[" * 260 + "]" * 260 + "}", "[" * 100_000, {"a": [1]}])
def test_arguments_of_any_depth_are_read(arguments: JSON) -> None:
    asked = {"id": "c", "type": "function", "function": {"name": "add", "arguments": arguments}}
    answered, telemetry = _call(0, [[7]]), _span(1, SpanKind.EVENT, {semconv.OPERATION: "chat"})
    for span in (answered, telemetry):
        span.attributes[semconv.OUTPUT_MESSAGES] = [  # type: ignore[index]
            {"role": "assistant", "content": None, "tool_calls": [asked]}
        ]
    [transition] = trajectory(_rollout([answered, telemetry])).transitions
    assert transition.signals.malformed_calls == (not isinstance(arguments, dict))


@pytest.mark.parametrize(
    "attributes",
    [{semconv.REWARD: 1e308}, {semconv.REWARD: "one"}, {semconv.REWARD: 1.0, semconv.REWARD_DIMENSIONS: [1]}],
)
def test_what_cannot_be_read_is_told_with_its_rollout(attributes: dict[str, JSON]) -> None:
    """Were it in a store: no way leads such a reward into it."""
    spans = [_call(0, [[7]]), _span(1, SpanKind.REWARD, attributes), _span(2, SpanKind.REWARD, attributes)]
    with pytest.raises(UnreadableError, match="the spans of rollout r cannot be read"):
        trajectory(_rollout(spans))


def test_the_transitions_of_a_call_that_a_grammar_held_say_so() -> None:
    spans = _spans([[[1], [2]], [[3]]])
    held = replace(spans[0], attributes={**spans[0].attributes, semconv.CONSTRAINED: True})
    transitions = trajectory(_rollout([held, spans[1]])).transitions
    assert [t.constrained for t in transitions] == [True, True, False]
