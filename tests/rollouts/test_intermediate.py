"""Signals become rewards by the recipe's table, never more than its limit, and never in what is reported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.named import reinforcement
from al_ray.algorithms.rejection import best
from al_ray.evaluation.scores import result_of
from al_ray.recipe import ReinforcementStage, SamplingSection, TransitionsSection
from al_ray.reports.batch_metrics import intermediate_metrics
from al_ray.rollouts.intermediate import intermediate_rewards
from al_ray.rollouts.trajectory import trajectory
from al_ray.traces import semconv
from al_ray.types import (
    JSON,
    Attempt,
    AttemptStatus,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Signals,
    Span,
    SpanKind,
    Task,
    Trajectory,
    Transition,
)

NAMES = ("tool_ok", "tool_errors", "malformed_calls", "empty_results")
worths = st.dictionaries(st.sampled_from(NAMES), st.floats(-2, 2, width=32))
signals = st.builds(Signals, **{name: st.integers(0, 3) for name in NAMES})
call_lists = st.lists(st.tuples(signals, st.booleans()), max_size=6)


def transitions(calls: Sequence[tuple[Signals, bool]]) -> list[Transition]:
    return [
        Transition(str(i), "a", (1,), (2,), (0.0,), 0, trained=trained, signals=told)
        for i, (told, trained) in enumerate(calls)
    ]


@given(worths, st.floats(0.125, 2, width=32), call_lists)
def test_the_sum_is_the_tables_cut_at_the_limit_and_no_beginning_exceeds_it(
    table: Mapping[str, float], limit: float, calls: list[tuple[Signals, bool]]
) -> None:
    settings = TransitionsSection(intermediate=dict(table), intermediate_limit=limit)
    found = intermediate_rewards(transitions(calls), settings)
    worth = sum(w * getattr(told, name) for told, trained in calls if trained for name, w in table.items())
    assert len(found) == len(calls)
    assert sum(found) == pytest.approx(max(-limit, min(worth, limit)), abs=1e-9)
    assert all(abs(sum(found[:end])) <= limit + 1e-9 for end in range(len(found) + 1))


@given(call_lists, st.floats(0.125, 2, width=32))
def test_within_the_limit_each_trained_call_gets_what_its_own_signals_are_worth(
    calls: list[tuple[Signals, bool]], worth: float
) -> None:
    settings = TransitionsSection(intermediate={"tool_errors": -worth}, intermediate_limit=100)
    expected = [-worth * told.tool_errors * trained for told, trained in calls]
    assert intermediate_rewards(transitions(calls), settings) == pytest.approx(expected, abs=1e-8)


@given(worths, call_lists, call_lists)
def test_by_default_no_rollout_rewarded_1_falls_behind_one_rewarded_0_for_penalties_alone(
    table: Mapping[str, float],
    right: list[tuple[Signals, bool]],
    wrong: list[tuple[Signals, bool]],
) -> None:
    """Nor, with bonuses too, behind by more than a rounding."""
    settings = TransitionsSection(intermediate=dict(table))
    returns = [
        reward + sum(intermediate_rewards(transitions(calls), settings))
        for reward, calls in ((1.0, right), (0.0, wrong))
    ]
    assert returns[0] >= returns[1] - 1e-9


TOOLS = [{"type": "function", "function": {"name": "query"}}]


def _call(sequence: int, sent: Sequence[JSON], asks: str | None, agent: str = "writer") -> Span:
    function = {"name": "query", "arguments": f'{{"sql": "{asks}"}}'}
    answer: Mapping[str, JSON] = {"role": "assistant", "content": "so"}
    if asks is not None:
        answer = {"role": "assistant", "tool_calls": [{"id": asks, "function": function}]}
    attributes = {
        semconv.AGENT_NAME: agent,
        semconv.TOOL_DEFINITIONS: TOOLS,
        semconv.INPUT_MESSAGES: list(sent),
        semconv.OUTPUT_MESSAGES: [answer],
        semconv.FINISH_REASONS: ["stop"],
        semconv.PROMPT_IDS: [1, sequence],
        semconv.CHOICES: [{"ids": [2], "logprobs": [-1.0], "versions": [[0, 0, 1]]}],
    }
    return Span(f"c{sequence}", "r", 1, SpanKind.CALL, "chat", 0.0, 1.0, attributes, sequence)


def _conversation(*queries: tuple[str, str], reward: float = 1.0, agent: str = "writer") -> Rollout:
    """Each query with what the tool answered; then a last word and the reward."""
    spans: list[Span] = []
    messages: list[JSON] = []
    for asks, answer in queries:
        spans.append(_call(len(spans), messages, asks, agent))
        messages += [
            spans[-1].attributes[semconv.OUTPUT_MESSAGES][0],
            {"role": "tool", "tool_call_id": asks, "content": answer},
        ]
    spans.append(_call(len(spans), messages, None))
    given_reward = {semconv.REWARD: reward, semconv.REWARD_DIMENSIONS: {"reward": reward}}
    spans.append(Span("r", "r", 1, SpanKind.REWARD, "reward", 0.0, 0.0, given_reward, len(spans)))
    attempt = Attempt("r", 1, "", AttemptStatus.SUCCEEDED)
    request = RolloutRequest("r", "b", "g", Task("t", {}))
    return Rollout(request, RolloutStatus.SUCCEEDED, [attempt], spans)


TABLE = TransitionsSection(intermediate={"tool_errors": -0.1, "empty_results": -0.05})
QUERIES = (("one", "error: no such table"), ("two", "(no rows)"), ("three", "3 | 4"))


def test_each_call_is_rewarded_for_what_came_of_it_and_the_return_holds_it_all() -> None:
    found = trajectory(_conversation(*QUERIES), TABLE)
    assert [t.reward for t in found.transitions] == pytest.approx([-0.1, -0.05, 0.0, 1.0])
    assert (found.reward, found.intermediate) == (pytest.approx(0.85), pytest.approx(-0.15))


def test_what_is_reported_is_the_reward_as_it_was_given() -> None:
    """In the dimensions, in evaluations, and in a step's mean reward."""
    rollout = _conversation(*QUERIES)
    assert trajectory(rollout, TABLE).rewards == {"reward": 1.0}
    assert result_of(rollout, TABLE, "toy").rewards == {"reward": 1.0}


def test_without_a_table_nothing_is_added() -> None:
    found = trajectory(_conversation(*QUERIES))
    assert [t.reward for t in found.transitions] == [0.0, 0.0, 0.0, 1.0]
    assert (found.reward, found.intermediate) == (1.0, 0.0)
    assert intermediate_metrics([found], TransitionsSection()) == {}


def test_the_calls_of_agents_that_are_not_trained_earn_nothing() -> None:
    found = trajectory(
        _conversation(*QUERIES, agent="checker"), TABLE.model_copy(update={"train": ["writer"]})
    )
    assert found.intermediate == 0.0


def test_metrics_tell_what_each_signal_was_worth_and_where_the_limit_cut() -> None:
    tight = TABLE.model_copy(update={"intermediate_limit": 0.12})
    both = [trajectory(_conversation(*queries), tight) for queries in (QUERIES, QUERIES[2:])]
    assert intermediate_metrics(both, tight) == pytest.approx(
        {
            "air/tool_errors": -0.05,
            "air/empty_results": -0.025,
            "air/reward": -0.06,
            "air/limited": 0.5,
        }
    )


def test_a_rollout_was_cut_by_the_limit_though_later_calls_made_it_good() -> None:
    """What comes to the limit, to the last digit that counts, is not cut."""
    settings = TransitionsSection(intermediate={"tool_errors": -0.1, "tool_ok": 0.1}, intermediate_limit=0.3)
    failed, went_well = (Signals(tool_errors=1), True), (Signals(tool_ok=1), True)
    for calls, cut in (([failed] * 4 + [went_well] * 4, 1.0), ([failed] * 3 + [went_well] * 6, 0.0)):
        of_calls = transitions(calls)
        earned = intermediate_rewards(of_calls, settings)
        episode = Trajectory("r", "g", "t", of_calls, 0.0, intermediate=math.fsum(earned))
        worth = [0.1 if told.tool_ok else -0.1 for told, _ in calls]
        assert (earned == pytest.approx(worth)) == (not cut)
        assert intermediate_metrics([episode], settings)["air/limited"] == cut


@given(st.permutations(range(3)))
def test_the_return_does_not_depend_on_the_order_of_the_calls(order: Sequence[int]) -> None:
    tight = TABLE.model_copy(update={"intermediate_limit": 0.12})
    told = [Signals(tool_errors=1), Signals(empty_results=1), Signals(tool_ok=1)]
    calls = [
        replace(t, signals=told[i])
        for t, i in zip(transitions([(s, True) for s in told]), order, strict=True)
    ]
    assert math.fsum(intermediate_rewards(calls, tight)) == pytest.approx(-0.12)


@pytest.mark.parametrize("intermediate", ["added", "potential"])
def test_rollouts_whose_signals_come_to_the_same_are_equals(intermediate: str) -> None:
    """To the last digit, in whichever order they came: one is not imitated as the best of them, and a group
    of them teaches nothing."""
    failing, empty = [(f"fails {i}", "error: no") for i in "123"], [(f"empty {i}", "(no rows)") for i in "12"]
    conversations = [*permutations([*failing[1:], *empty]), failing]
    group = [
        replace(trajectory(_conversation(*queries, reward=0.9), TABLE), rollout_id=str(number))
        for number, queries in enumerate(conversations)
    ]
    assert len({each.reward for each in group}) == 1
    assert best(group, 1, None) == []
    stage = ReinforcementStage(
        algorithm="dapo", steps=1, optimizer={"learning_rate": 1e-3}, intermediate=intermediate
    )
    (found,) = reinforcement(stage, SamplingSection()).advantages([group])
    assert not any(map(any, found))
