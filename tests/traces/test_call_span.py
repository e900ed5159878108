"""A call's reply is read back from its span as it was recorded, also after the database has had it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from al_ray.traces import call_span, semconv
from al_ray.types import ChatReply, Choice, Lineage, LineageOutcome, Span, SpanKind, Usage, VersionSpan

IDS = st.lists(st.integers(0, 200_000), max_size=5)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)


@st.composite
def a_choice(draw: st.DrawFn, index: int) -> Choice:
    ids = draw(IDS)
    logprobs = draw(st.lists(st.floats(-50, 0), min_size=len(ids), max_size=len(ids)))
    cut = draw(st.integers(0, len(ids)))
    version = draw(st.integers(0, 9))
    versions = [VersionSpan(version, 0, cut), VersionSpan(version + 1, cut, len(ids))] if ids else []
    message = {"role": "assistant", "content": draw(TEXTS)}
    reason = draw(st.sampled_from(["stop", "length", "tool_calls"]))
    left_out = draw(st.integers(0, 2)) if ids else 0
    stop = draw(st.none() | TEXTS)
    return Choice(index, message, reason, ids, logprobs, versions, stop, calls_left_out=left_out)


@st.composite
def replies(draw: st.DrawFn) -> ChatReply:
    choices = [draw(a_choice(index)) for index in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        return ChatReply(draw(IDS), choices, hosted_usage=Usage(draw(st.integers(0, 9)), 2))
    outcome = draw(st.sampled_from(LineageOutcome))
    descent = Lineage(outcome, draw(st.none() | TEXTS), draw(st.integers(0, 9)))
    return ChatReply(draw(IDS), choices, descent, constrained=draw(st.booleans()))


def stored(attributes: dict[str, Any]) -> Span:
    """A span whose attributes were JSON in between, as the database and the actors have them."""
    told = orjson.loads(orjson.dumps(attributes))
    return Span("s", "r", 1, SpanKind.CALL, "chat", 0.0, 1.0, told)


@given(replies())
def test_a_reply_is_read_back_as_it_was_recorded(reply: ChatReply) -> None:
    call = stored(call_span.reply_attributes(reply))
    assert call_span.reply(call) == reply
    assert call_span.usage(call) == reply.usage
    assert call_span.lineage(call) == (None if reply.hosted_usage else reply.lineage)
    assert call_span.versions(call) == sorted({s.version for c in reply.choices for s in c.versions})
    assert not call_span.is_aborted(call)


@given(replies())
def test_what_was_answered_from_a_record_is_told_without_its_tokens(reply: ChatReply) -> None:
    """What the agent was told of it is as it was recorded, and can be told again."""
    call = stored(call_span.replayed_attributes(reply, "recorded"))
    assert call_span.is_replayed(call) and call.attributes[semconv.REPLAYED] == "recorded"
    assert call_span.usage(call) == call_span.reply(call).usage == reply.usage
    bare = [replace(choice, response_ids=[], logprobs=[], versions=[]) for choice in reply.choices]
    assert call_span.reply(call).choices == bare
    assert (call_span.prompt_ids(call), call_span.lineage(call)) == ([], None)
    given_up = stored(call_span.aborted_attributes([{}], 0) | {semconv.REPLAYED: "recorded"})
    assert not call_span.is_replayed(given_up)


def test_answered_calls_come_in_the_order_of_their_answers() -> None:
    aborted = stored(call_span.aborted_attributes([{}], 0))
    calls = [replace(stored({}), id=f"c{number}", sequence=number) for number in (3, 1)]
    event = replace(stored({}), kind=SpanKind.EVENT)
    assert [call.id for call in call_span.answered([*calls, aborted, event])] == ["c1", "c3"]


def test_a_call_whose_agent_hung_up_has_what_was_seen_and_no_tokens() -> None:
    seen = [{"role": "assistant", "content": "hal"}, {"role": "assistant", "content": ""}]
    call = stored(call_span.aborted_attributes(seen, tokens=3))
    assert call_span.is_aborted(call)
    assert [choice.message for choice in call_span.choices(call)] == seen
    assert [choice.finish_reason for choice in call_span.choices(call)] == ["aborted", "aborted"]
    assert [*call_span.prompt_ids(call), *call_span.choices(call)[0].response_ids] == []
    assert call_span.usage(call) == Usage(0, 3)


def test_a_span_that_no_gateway_recorded_has_neither_answers_nor_tokens() -> None:
    call = stored({})
    assert (call_span.choices(call), call_span.prompt_ids(call), call_span.lineage(call)) == ([], (), None)


def test_what_a_call_begins_with_that_continues_another_leaves_its_instructions_out() -> None:
    asked = [{"role": "system", "content": "brief"}, {"role": "user", "content": "?"}]
    answered = {semconv.INPUT_MESSAGES: asked, semconv.OUTPUT_MESSAGES: [{"role": "assistant"}, {}]}
    assert call_span.conversation(stored(answered)) == [*asked, {"role": "assistant"}]
    with_instructions = stored({**answered, semconv.INSTRUCTIONS: True})
    assert call_span.conversation(with_instructions) == [asked[1], {"role": "assistant"}]
