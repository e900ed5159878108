"""A call that the gateway and the agent's telemetry both saw is one call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.traces import semconv
from al_ray.traces.nesting import Earner, Nesting
from al_ray.types import Span, SpanKind

ADD = {"name": "add", "arguments": '{"a": 1, "b": 2}'}


def span(id: str, parent: str | None = None, *, at: tuple[float, float] = (0, 10), **attributes: Any) -> Span:
    told = {key.replace("__", "."): value for key, value in attributes.items()}
    if parent is not None:
        told |= {semconv.PARENT_ID: parent, semconv.TRACE_ID: "t"}
    return Span(id, "r", 1, SpanKind.EVENT, id, *at, told)


def call(
    id: str, said: str | None = "hi", parent: str | None = None, *, at: tuple[float, float] = (4, 5)
) -> Span:
    message: dict[str, Any] = {"role": "assistant", "content": said}
    if said is None:
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": ADD}]
    told: dict[str, Any] = {semconv.OUTPUT_MESSAGES: [message], semconv.CHOICES: []}
    if parent is not None:
        told[semconv.PARENT_ID] = parent
    return Span(id, "r", 1, SpanKind.CALL, "chat toy", *at, told)


def sequenced(spans: Sequence[Span]) -> list[Span]:
    return [
        Span(s.id, s.rollout_id, s.attempt, s.kind, s.name, s.start, s.end, s.attributes, n)
        for n, s in enumerate(spans)
    ]


def nested(*spans: Span) -> Nesting:
    return Nesting(sequenced(spans))


def agents(nesting: Nesting) -> list[str]:
    return [nesting.agent(call) for call in nesting.calls]


WRITER = span("writer", gen_ai__operation__name="invoke_agent", gen_ai__agent__name="writer")


def genai(text: str) -> str:
    return json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": text}]}])


def test_the_responses_id_makes_the_twin_and_the_call_takes_its_place_and_its_agent() -> None:
    twin = span("chat", "writer", gen_ai__operation__name="chat", gen_ai__response__id="c1")
    nesting = nested(call("c1"), twin, WRITER)
    assert [call.id for call in nesting.calls] == ["c1"]
    assert [outer.id for outer in nesting.enclosing(nesting.calls[0])] == ["writer"]
    assert agents(nesting) == ["writer"]


def test_a_call_made_within_a_span_of_a_model_call_is_that_ones() -> None:
    """By its ``traceparent``: the HTTP request within the chat span; the answer of a second try counts."""
    chat = span("chat", "writer", gen_ai__operation__name="chat")
    nesting = nested(
        call("c1", parent="post1"),
        call("c2", parent="post2"),
        span("post1", "chat"),
        span("post2", "chat"),
        chat,
        WRITER,
    )
    assert nesting.twins == {"chat": "c2"}
    assert agents(nesting) == ["writer", "writer"]


@pytest.mark.parametrize(
    "told",
    [
        {"gen_ai__output__messages": genai("hi")},
        {"gen_ai__output__messages": [{"role": "assistant", "content": " hi "}]},
        {"llm.output_messages.0.message.role": "assistant", "llm.output_messages.0.message.content": "hi"},
    ],
)
def test_else_time_and_content_make_the_twin(told: dict[str, Any]) -> None:
    twin = span("chat", "writer", at=(3, 6), gen_ai__operation__name="chat", **told)
    nesting = nested(call("c1"), call("c2", "something else"), call("c3", at=(20, 21)), twin, WRITER)
    assert (nesting.twins, agents(nesting)) == ({"chat": "c1"}, ["writer", "", ""])


@pytest.mark.parametrize(
    ("seen", "is_twin"),
    [
        ((4.5, 5.5), True),  # the call began before it did
        ((3.5, 4.5), True),  # and ended after it did
        ((3, 4), True),
        ((5, 6), True),
        ((5.5, 6), False),
        ((3, 3.5), False),
    ],
)
def test_two_machines_clocks_may_differ_by_a_second(seen: tuple[float, float], is_twin: bool) -> None:
    """The call lasted from 4 to 5 by the gateway's."""
    twin = span("chat", at=seen, gen_ai__operation__name="chat", gen_ai__output__messages=genai("hi"))
    assert nested(call("c1"), twin).twins == ({"chat": "c1"} if is_twin else {})


@pytest.mark.parametrize(
    "told",
    [
        {
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "add",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"b":2,"a":1}',
        },
        {
            "gen_ai__output__messages": json.dumps(
                [{"parts": [{"type": "tool_call", "name": "add", "arguments": {"a": 1, "b": 2}}]}]
            )
        },
    ],
)
def test_an_answer_of_tool_calls_is_content_too(told: dict[str, Any]) -> None:
    twin = span("chat", "writer", gen_ai__operation__name="chat", **told)
    nesting = nested(call("c1", None), call("c2", ""), twin, WRITER)
    assert (nesting.twins, agents(nesting)) == ({"chat": "c1"}, ["writer", ""])


def test_where_two_calls_could_be_meant_neither_is() -> None:
    """Two sub-agents that say the same at the same time: a wrong name would be worse than none."""
    other = span("judge", gen_ai__agent__name="judge")
    twins = [
        span(f"chat{n}", parent, gen_ai__operation__name="chat", gen_ai__output__messages=genai("hi"))
        for n, parent in enumerate(("writer", "judge"))
    ]
    nesting = nested(call("c1"), call("c2"), *twins, WRITER, other)
    assert (nesting.twins, agents(nesting)) == ({}, ["", ""])


def test_another_providers_call_is_nobodys_twin() -> None:
    other = span(
        "chat",
        "writer",
        gen_ai__operation__name="chat",
        gen_ai__response__id="gpt-1",
        gen_ai__output__messages=genai("hi"),
    )
    nesting = nested(call("c1"), other, WRITER)
    assert (nesting.twins, agents(nesting)) == ({}, [""])


def test_the_nearest_name_counts_and_a_circle_or_a_missing_parent_ends_the_search() -> None:
    inner = span("inner", "writer", gen_ai__agent__name="inner")
    nesting = nested(
        call("c1", parent="inner"),
        call("c2", parent="nowhere"),
        call("c3", parent="a"),
        inner,
        WRITER,
        span("a", "b"),
        span("b", "a"),
    )
    assert agents(nesting) == ["inner", "", ""]


@pytest.mark.parametrize("operation", ["invoke_agent", "execute_tool", "invoke_workflow", "operation"])
def test_a_span_of_another_operation_that_names_a_response_is_no_twin(operation: str) -> None:
    """An agent's may name its last one: the calls in it keep their order, and what is told between them."""
    outer = span("agent", gen_ai__operation__name=operation, gen_ai__response__id="c2")
    between = replace(span("r", "agent", **{semconv.REWARD: 1.0}), kind=SpanKind.REWARD)
    nesting = nested(call("c1", parent="agent"), between, call("c2", parent="agent"), outer)
    assert (nesting.twins, nesting.earner(nesting.spans[1])) == ({}, Earner(nesting.calls[0]))


@st.composite
def attempts(draw: st.DrawFn) -> list[Span]:
    """Any spans that name any others, as parents and as responses."""
    ids = [f"s{n}" for n in range(draw(st.integers(1, 8)))]
    spans = []
    for id in ids:
        parent = draw(st.none() | st.sampled_from([*ids, "nowhere"]))
        if draw(st.booleans()):
            spans.append(call(id, draw(st.sampled_from(["hi", "ho", None])), parent))
        else:
            told = draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        semconv.OPERATION: st.sampled_from(["chat", "execute_tool"]),
                        semconv.RESPONSE_ID: st.sampled_from(ids),
                        semconv.AGENT_NAME: st.sampled_from(["x", "y"]),
                        semconv.OUTPUT_MESSAGES: st.sampled_from([genai("hi"), "garbage", 3]),
                    },
                )
            )
            kind = draw(st.sampled_from([SpanKind.EVENT, SpanKind.REWARD]))
            spans.append(replace(span(id, parent, **told), kind=kind))
    return sequenced(spans)


@settings(max_examples=200, deadline=None)
@given(attempts(), st.randoms())
def test_shuffled_arrival_and_duplicates_change_nothing_and_no_call_is_lost_or_made(
    spans: list[Span], random: Any
) -> None:
    once = Nesting(spans)
    mixed = [*spans, *spans]
    random.shuffle(mixed)
    again = Nesting(mixed)
    assert (again.spans, again.twins, agents(again)) == (once.spans, once.twins, agents(once))
    assert once.calls == [each for each in spans if each.kind is SpanKind.CALL]
    is_beside = [each.id not in once.twins or each.kind is SpanKind.REWARD for each in spans]
    assert once.spans == [*compress(spans, is_beside)]
    assert set(once.twins.values()) <= {call.id for call in once.calls}
