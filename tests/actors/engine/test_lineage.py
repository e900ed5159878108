"""Where a call stands in its attempt's history, whatever the agent did to it; and the rows of that."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.actors.engine.lineage import LineageMemory
from al_ray.algorithms.rows import build_rows
from al_ray.errors import BadRequestError
from al_ray.reports.batch_metrics import lineage_metrics
from al_ray.traces import semconv
from al_ray.traces.messages import Message
from al_ray.types import (
    ChatReply,
    ChatRequest,
    LineageOutcome,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Sampling,
    Span,
    SpanKind,
    Task,
    Trajectory,
    Transition,
)
from tests.support.models.speaker import (
    CHATML,
    HERMES,
    QWEN3,
    SPECIAL,
    Speaker,
    byte_level_tokenizer,
    said,
    tokens,
    user,
)

TOKENIZER = byte_level_tokenizer()
END = "<|im_end|>"
END_ID = TOKENIZER.token_to_id(END)


class Dialogue:
    """Two calls of one conversation: ``messages`` is what the third would send if it only went on."""

    speaker: Speaker
    first: ChatReply
    second: ChatReply
    messages: list[Message]

    async def begin(self) -> Dialogue:
        self.speaker = Speaker(CHATML, TOKENIZER)
        system = {"role": "system", "content": "Be brief."}
        self.first = await self.speaker.call([system, user("one")], "hello" + END)
        messages: list[Message] = [system, user("one"), said(self.first), user("two")]
        self.second = await self.speaker.call(messages, "123" + END)
        self.messages = [*messages, said(self.second), user("three")]
        return self


@pytest.mark.parametrize(
    ("change", "outcome", "parent"),
    [
        ("pass", "continued", "c2/0"),
        ("m.pop()", "continued", "c2/0"),  # its own answer, asked for more
        ("del m[4:]", "continued", "c1/0"),  # the last answer dropped, and asked again
        ("m[4:] = [{'role': 'user', 'content': 'else'}]", "continued", "c1/0"),
        ("del m[2:]", "new", None),
        ("m[:] = [{'role': 'user', 'content': 'a summary'}]", "new", None),
        ("m[1:5] = [{'role': 'user', 'content': 'a summary'}, m[4]]", "rewritten", None),
        ("m[1] = {'role': 'user', 'content': 'edited'}", "rewritten", None),
        ("m[3] = {'role': 'user', 'content': 'edited'}", "rewritten", "c1/0"),
        ("m[2] = {'role': 'assistant', 'content': 'edited'}", "rewritten", None),
        ("m[4] = {'role': 'assistant', 'content': 'edited'}", "rewritten", "c1/0"),
        ("m[2], m[4] = m[4], m[2]", "rewritten", None),
        ("m[0], m[1] = m[1], m[0]", "rewritten", None),
        ("del m[0]", "rewritten", None),
        ("m[0] = {'role': 'system', 'content': ' Be brief.'}", "rewritten", None),
        ("m.append({'role': 'assistant', 'content': 'canned'})", "other", "c2/0"),
        ("m[1:1] = [m[1], {'role': 'assistant', 'content': 'an example'}]", "rewritten", None),
    ],
)
async def test_what_an_agent_does_to_a_conversation_decides_what_it_continues(
    change: str, outcome: str, parent: str | None
) -> None:
    dialogue = await Dialogue().begin()
    messages = dialogue.messages
    exec(change, {"m": messages})
    reply = await dialogue.speaker.call(messages, "no" + END)
    assert (reply.lineage.outcome, reply.lineage.parent) == (outcome, parent)
    begun = {None: [], "c1/0": tokens(dialogue.first), "c2/0": tokens(dialogue.second)}[parent]
    assert reply.prompt_ids[: len(begun)] == begun and reply.lineage.reused_tokens == len(begun)
    again = await dialogue.speaker.call([*messages, said(reply), user("more")], "no" + END)
    assert (again.lineage.outcome, again.lineage.parent) == ("continued", "c3/0")


async def test_examples_that_an_agent_brings_are_nobodys_turns() -> None:
    speaker = Speaker(CHATML, TOKENIZER)
    example = [user("1+1?"), {"role": "assistant", "content": "2"}]
    first = await speaker.call([*example, user("2+2?")], "123" + END)
    second = await speaker.call([*example, user("2+2?"), said(first), user("sure?")], "no" + END)
    assert [reply.lineage.outcome for reply in (first, second)] == ["other", "continued"]


async def test_other_tools_are_another_history() -> None:
    speaker = Speaker(HERMES, TOKENIZER)
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("add", "sub")]
    first = await speaker.call([user("?")], "hello" + END, tools=tools[:1])
    second = await speaker.call([user("?"), said(first), user("!")], "no" + END, tools=tools)
    assert second.lineage.outcome == "rewritten"


async def test_thinking_that_the_agent_changed_is_a_rewrite() -> None:
    speaker = Speaker(QWEN3, TOKENIZER, reasons=True)
    first = await speaker.call([user("?")], "<think>123</think>hello" + END)
    changed = {**said(first), "reasoning": "I like dogs."}
    second = await speaker.call([user("?"), changed, {"role": "tool", "content": "1"}], "no" + END)
    assert second.lineage.outcome == "rewritten"


async def test_of_several_choices_each_can_be_continued() -> None:
    speaker = Speaker(CHATML, TOKENIZER)
    first = await speaker.call([user("?")], "hello" + END, [*TOKENIZER.encode("1").ids, END_ID], "12" + END)
    for index in range(3):
        reply = await speaker.call([user("?"), said(first, index), user("!")], "no" + END)
        assert reply.lineage.parent == f"c1/{index}"
        assert reply.prompt_ids[: len(tokens(first, index))] == tokens(first, index)


async def test_of_choices_that_say_the_same_the_last_is_continued() -> None:
    speaker = Speaker(CHATML, TOKENIZER)
    spelt = [id for letter in "hello" for id in TOKENIZER.encode(letter).ids]
    first = await speaker.call([user("?")], "hello" + END, [*spelt, END_ID])
    reply = await speaker.call([user("?"), said(first, 0), user("!")], "no" + END)
    assert reply.lineage.parent == "c1/1"
    assert reply.prompt_ids[: len(tokens(first, 1))] == tokens(first, 1)


async def test_attempts_know_nothing_of_each_other() -> None:
    speaker = Speaker(CHATML, TOKENIZER)
    first = await speaker.call([user("?")], "hello" + END, attempt="r/1")
    for attempt in ("r/2", None):
        reply = await speaker.call([user("?"), said(first), user("!")], "no" + END, attempt=attempt)
        assert reply.lineage.parent is None and reply.lineage.reused_tokens == 0


async def test_calls_of_no_attempt_are_not_remembered() -> None:
    speaker = Speaker(CHATML, TOKENIZER)
    first = await speaker.call([user("?")], "hello" + END, attempt=None)
    reply = await speaker.call([user("?"), said(first), user("!")], "no" + END, attempt=None)
    assert reply.lineage.outcome == "new"


async def test_the_memory_is_bounded_and_what_it_forgot_costs_a_branch() -> None:
    """The turns that were not used for longest go first, and all that was kept for them."""
    speaker = Speaker(CHATML, TOKENIZER)
    asked = len(speaker.tokenize(speaker.text([user("0")], None, True)))
    speaker.memory._limit = 3 * (asked + 2)
    opened = [await speaker.call([user(str(i))], "hello" + END) for i in range(3)]
    used = await speaker.call([user("0"), said(opened[0]), user("!")], "no" + END)
    assert used.lineage.parent == "c1/0"
    forgotten = await speaker.call([user("1"), said(opened[1]), user("!")], "no" + END)
    assert forgotten.lineage.outcome == "other"
    again = await speaker.call([user("1"), said(opened[1]), user("!"), said(forgotten), user("!")], END)
    assert again.lineage.parent == "c5/0"
    for number in range(20):
        await speaker.call([user(f"{number} more")], "hello" + END)
    assert speaker.memory._size <= speaker.memory._limit
    assert len(speaker.memory._turns) <= 3 and len(speaker.memory._traces) <= 6


async def test_the_memory_is_bounded_however_long_the_answers_are() -> None:
    """Longer than their prompts too."""
    speaker = Speaker(CHATML, TOKENIZER)
    speaker.memory._limit = 500
    for number in range(10):
        await speaker.call([user(str(number))], [*[TOKENIZER.token_to_id("a")] * 200, END_ID])
        kept = [remembered.turn for remembered in speaker.memory._turns.values()]
        assert 0 < sum(len(turn.prompt_ids) + len(turn.response_ids) for turn in kept) <= 500


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
FIELDS = ["role", "content", "name", "reasoning", "tool_calls", "reasoning_content"]


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=5), max_size=3), st.booleans())
@settings(max_examples=100, deadline=None)
def test_no_message_is_too_strange_to_be_compared(messages: list[dict[str, Any]], assistants: bool) -> None:
    """Whether it can be rendered is for the engine to say."""
    if assistants:
        messages = [message | {"role": "assistant"} for message in messages]
    memory = LineageMemory()
    place = memory.place(ChatRequest("c", messages, Sampling(), attempt="r/1"))
    assert list(place.messages) == messages and place.turn is None


def test_messages_that_are_nested_too_deeply_are_the_callers_mistake() -> None:
    deep = json.loads("[" * 900 + "]" * 900)
    for _ in range(5):
        deep = [deep]
    tools = [{"type": "function", "function": {"name": "f", "parameters": deep}}]
    for _ in range(200):
        tools = [{"type": tools}]
    with pytest.raises(BadRequestError, match="nested"):
        LineageMemory().place(ChatRequest("c", [user("?")], Sampling(), tools, attempt="r/1"))


# --- forests ---------------------------------------------------------------------------------------


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["continue", "fork", "restart", "edit", "compact"]),
        st.integers(0, 20),
        st.lists(
            st.lists(st.integers(len(SPECIAL), TOKENIZER.get_vocab_size() - 1), max_size=4),
            min_size=1,
            max_size=2,
        ),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@given(STEPS, st.sampled_from([CHATML, QWEN3]))
@settings(max_examples=80, deadline=None)
async def test_every_sampled_token_is_trained_once_in_any_forest(
    steps: list[tuple[str, int, list[list[int]], bool]], template: str
) -> None:
    """Agents that go on, fork, start sub-agents, rewrite and compact: after exactly the tokens it was sampled
    after, and each call that continues another shares its row unless another call did so first."""
    speaker = Speaker(template, TOKENIZER)
    histories: list[list[Message]] = [[user("hello")]]
    transitions: list[Transition] = []
    continued: set[str] = set()
    rows_expected = 0
    for number, (step, which, responses, ended) in enumerate(steps):
        history = histories[which % len(histories)] if step != "continue" else histories[-1]
        messages = _changed(step, history, number)
        reply = await speaker.call(
            messages, *([*ids, END_ID] if ended or not ids else ids for ids in responses)
        )
        parent = reply.lineage.parent
        if parent is not None:
            whole = next(t for t in transitions if t.id == parent)
            begun = [*whole.prompt_ids, *whole.response_ids]
            assert list(reply.prompt_ids[: len(begun)]) == begun
        for choice in reply.choices:
            first = choice.index == 0 and parent is not None and parent not in continued
            rows_expected += not first
            histories.append([*messages, choice.message, user(f"go on {number}")])
            transitions.append(
                Transition(
                    f"c{number + 1}/{choice.index}",
                    "",
                    tuple(reply.prompt_ids),
                    tuple(choice.response_ids),
                    tuple(choice.logprobs),
                    0,
                )
            )
        if parent is not None:
            continued.add(parent)
    rows = build_rows([Trajectory("r", "g", "t", transitions, 1.0)], [[1.0] * len(transitions)], "token_mean")
    trained = Counter(
        (tuple(row.tokens[:i]), row.tokens[i], row.logprobs[i])
        for row in rows
        for i in np.flatnonzero(row.trained)
    )
    assert trained == Counter(
        ((*call.prompt_ids, *call.response_ids[:i]), token, np.float32(call.logprobs[i]))
        for call in transitions
        for i, token in enumerate(call.response_ids)
    )
    assert len(rows) <= rows_expected


def _changed(step: str, history: list[Message], number: int) -> list[Message]:
    if step == "restart":
        return [user(f"sub-agent {number}")]
    if step == "edit":
        return [user(f"edited {number}"), *history[1:]]
    if step == "compact":
        return [user(f"summary {number}"), *history[-2:]]
    return history


# --- metrics ---------------------------------------------------------------------------------------


def test_outcomes_are_counted_by_call() -> None:
    outcomes = [*LineageOutcome, LineageOutcome.CONTINUED]
    spans = [
        Span(str(i), "r", 1, SpanKind.CALL, "chat", 0, 1, {semconv.LINEAGE: outcome.value})
        for i, outcome in enumerate(outcomes)
    ]
    spans.append(Span("e", "r", 1, SpanKind.EVENT, "hello", 0, 1, {}))
    rollout = Rollout(RolloutRequest("r", "b", "g", Task("t", {})), RolloutStatus.SUCCEEDED, (), spans)
    assert lineage_metrics([rollout]) == {
        "lineage/new": 1,
        "lineage/continued": 2,
        "lineage/branch_template": 1,
        "lineage/branch_retokenised": 1,
        "lineage/branch_rewritten": 1,
        "lineage/branch_other": 1,
    }
