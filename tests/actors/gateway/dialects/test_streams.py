"""The events of a streamed answer, without a gateway around them: of one that was cut, of calls that come in
turn, of arguments that are odd, of text and thoughts between calls, and of tokens that could not be drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event

from al_ray.actors.gateway.calls.partial import PartialAnswer
from al_ray.actors.gateway.dialects import DIALECTS
from al_ray.actors.gateway.dialects.core import Asked, AskedSampling, Dialect, Head, ToldAs
from al_ray.traces.messages import canonical
from al_ray.types import JSON, ChatDelta, ChatReply, Choice, TokenLogprob

CHAT, COMPLETIONS, RESPONSES, MESSAGES = DIALECTS
OWN = {kind: ToldAs(kind, kind) for kind in ("local_shell", "shell", "apply_patch")}
"""Functions of these names are OpenAI's own tools."""
HEAD = Head("resp_1", "toy", 0)
ASKED = Asked("m", AskedSampling(), {}, told_as=OWN)
CUT = '{"x": '


def call(index: int, name: str | None, arguments: str) -> JSON:
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"index": index, "function": function} | ({} if name is None else {"id": f"c{index}"})


def answer(reason: str, *calls: tuple[str, str], content: str | None = None) -> ChatReply:
    made = [
        {"id": f"c{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": content, **({"tool_calls": made} if made else {})}
    return ChatReply([1], [Choice(0, message, reason, [2], [-0.5], [])])


def events(dialect: Dialect, pieces: Iterable[Sequence[JSON]], reply: ChatReply) -> list[dict[str, Any]]:
    """Of an answer that is calls alone."""
    return events_of(dialect, [ChatDelta(0, {"tool_calls": list(calls)}) for calls in pieces], reply)


def events_of(dialect: Dialect, deltas: Iterable[ChatDelta], reply: ChatReply) -> list[dict[str, Any]]:
    stream = dialect.stream(HEAD, ASKED)
    told = [*stream.begin()]
    for delta in deltas:
        told += stream.piece(delta)
    told += stream.end(reply)
    lines = [line for line in b"".join(told).split(b"\n") if line.startswith(b"data: {")]
    return [orjson.loads(line.removeprefix(b"data: ")) for line in lines]


def message_by_sdk(told: Iterable[Any]) -> Any:
    """The message that Anthropic's own client makes of the events."""
    message, buffers = None, {}  # type: ignore[var-annotated]
    for each in told:
        message = accumulate_event(event=each, current_snapshot=message, json_bufs=buffers)
    return message


def kinds(told: list[dict[str, Any]], place: str) -> list[tuple[str, int]]:
    """Of the events that are of an item or a block."""
    return [(event["type"].rpartition(".")[2], event[place]) for event in told if place in event]


def test_an_answer_that_was_cut_within_a_tool_call_is_incomplete_streamed_or_not() -> None:
    """Its last item too: nobody should make a call that was not said to its end."""
    reply = answer("length", ("add", CUT))
    told = events(RESPONSES, [[call(0, "add", CUT)]], reply)
    for whole in (RESPONSES.reply(HEAD, ASKED, reply), told[-1]["response"]):
        assert (whole["status"], whole["incomplete_details"]) == (
            "incomplete",
            {"reason": "max_output_tokens"},
        )
        assert [(item["type"], item["status"]) for item in whole["output"]] == [
            ("function_call", "incomplete")
        ]
    assert told[-1]["type"] == "response.incomplete"
    assert told[-2]["item"]["status"] == "incomplete"
    delta = next(
        event
        for event in events(MESSAGES, [[call(0, "add", CUT)]], reply)
        if "delta" in event and "usage" in event
    )
    assert delta["delta"]["stop_reason"] == MESSAGES.reply(HEAD, ASKED, reply)["stop_reason"] == "max_tokens"
    chunks = events(CHAT, [[call(0, "add", CUT)]], reply)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("late", ["", " "])
def test_a_late_piece_of_a_call_that_is_done_begins_no_other(late: str) -> None:
    """As some servers send an empty one of every call at the end."""
    pieces = [[call(0, "add", "{}")], [call(1, "add", "{}")], [call(0, None, late)], [call(1, None, "")]]
    reply = answer("tool_calls", ("add", "{}"), ("add", "{}"))
    items = events(RESPONSES, pieces, reply)[-1]["response"]["output"]
    assert [(item["call_id"], item["name"]) for item in items] == [("c0", "add"), ("c1", "add")]
    begun = [event["content_block"] for event in events(MESSAGES, pieces, reply) if "content_block" in event]
    assert [(block["id"], block["name"]) for block in begun] == [("c0", "add"), ("c1", "add")]


def test_an_answer_that_a_hosted_models_filter_cut_is_no_success() -> None:
    reply = answer("content_filter", content="so")
    stream = RESPONSES.stream(HEAD, ASKED)
    told = [*stream.begin(), *stream.piece(ChatDelta(0, {"content": "so"})), *stream.end(reply)]
    last = orjson.loads(told[-1].partition(b"data: ")[2])
    assert last["type"] == "response.incomplete"
    for whole in (RESPONSES.reply(HEAD, ASKED, reply), last["response"]):
        assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
        assert whole["output"][0]["status"] == "incomplete"
    [delta] = [event for event in events(MESSAGES, [], reply) if event["type"] == "message_delta"]
    assert delta["delta"]["stop_reason"] == MESSAGES.reply(HEAD, ASKED, reply)["stop_reason"] == "refusal"


@pytest.mark.parametrize(("reason", "status"), [("stop", "completed"), ("length", "incomplete")])
def test_a_response_in_which_nothing_is_said_has_a_message_all_the_same(reason: str, status: str) -> None:
    """Streamed or not: the agent could not send it back otherwise."""
    reply = answer(reason, content="")
    told = events(RESPONSES, [], reply)
    for whole in (RESPONSES.reply(HEAD, ASKED, reply), told[-1]["response"]):
        [item] = whole["output"]
        assert (item["type"], item["status"], item["content"][0]["text"]) == ("message", status, "")
    assert [event["item"]["id"] for event in told if "item" in event] == ["item_0_resp_1"] * 2


ORDERLY = [[call(0, "add", "")], [call(0, None, '{"x": 1}')], [call(1, "add", '{"y": 2}')]]
WITHOUT_ARGUMENTS = [[call(0, "add", "{}")], [call(1, "add", "{}")]]
IN_TURN = [[call(0, "add", ""), call(1, "add", "")], [call(0, None, '{"x":'), call(1, None, '{"y":')],
           [call(1, None, " 2}"), call(0, None, " 1}")]]  # fmt: skip
TWO = answer("tool_calls", ("add", '{"x": 1}'), ("add", '{"y": 2}'))


def test_calls_that_come_one_after_the_other_are_told_so() -> None:
    told = kinds(events(RESPONSES, ORDERLY, TWO), "output_index")
    assert told == [
        ("added", 0),
        ("delta", 0),
        ("done", 0),
        ("done", 0),
        ("added", 1),
        ("delta", 1),
        ("done", 1),
        ("done", 1),
    ]
    assert kinds(events(RESPONSES, WITHOUT_ARGUMENTS, TWO), "output_index") == told
    blocks = kinds(events(MESSAGES, ORDERLY, TWO), "index")
    assert kinds(events(MESSAGES, WITHOUT_ARGUMENTS, TWO), "index") == blocks
    names = ("content_block_start", "content_block_delta", "content_block_stop")
    assert blocks == [(name, index) for index in (0, 1) for name in names]


@pytest.mark.parametrize("pieces", [ORDERLY, IN_TURN], ids=["orderly", "in turn"])
def test_calls_whose_pieces_come_in_turn_are_whole_in_the_end(pieces: Any) -> None:
    told = events(RESPONSES, pieces, TWO)
    items = told[-1]["response"]["output"]
    assert [(item["call_id"], orjson.loads(item["arguments"])) for item in items] == [
        ("c0", {"x": 1}),
        ("c1", {"y": 2}),
    ]
    by_item = {
        index: "".join(e["delta"] for e in told if e.get("output_index") == index and "delta" in e)
        for index in (0, 1)
    }
    assert by_item == {index: item["arguments"] for index, item in enumerate(items)}
    assert [event["item"] for event in told if event["type"] == "response.output_item.done"] == items
    blocks = events(MESSAGES, pieces, TWO)
    for index, expected in enumerate(({"x": 1}, {"y": 2})):
        mine = [event for event in blocks if event.get("index") == index]
        assert [mine[0]["type"], mine[-1]["type"]] == ["content_block_start", "content_block_stop"]
        assert mine[0]["content_block"]["id"] == f"c{index}"
        assert orjson.loads("".join(event["delta"]["partial_json"] for event in mine[1:-1])) == expected


@pytest.mark.parametrize(
    "arguments", ["", "{}", '{"x": 1}', "{x: 1}", '{"x": 1 + 2}', "{'x': 1}", CUT, "[1]"]
)
def test_a_call_streamed_to_anthropics_client_is_the_one_that_is_told_whole(arguments: str) -> None:
    """Whatever the model gave the tool: also what the client could not read in pieces."""
    reply = answer("tool_calls", ("add", arguments))
    half = len(arguments) // 2
    pieces = [[call(0, "add", "")], [call(0, None, arguments[:half])], [call(0, None, arguments[half:])]]
    [used] = message_by_sdk(events(MESSAGES, pieces, reply)).content
    [whole] = MESSAGES.reply(HEAD, ASKED, reply)["content"]
    assert (used.id, used.name, used.input) == (whole["id"], whole["name"], whole["input"])


CALL = {"tool_calls": [call(0, "add", "{}")]}


@pytest.mark.parametrize(
    "pieces",
    [
        [{"content": "Adding."}, CALL, {"content": " Done"}, {"content": " soon."}],
        [CALL, {"content": "Done."}],
        [{"content": "A"}, CALL, {"content": "B"}, {"tool_calls": [call(1, "add", "{}")]}, {"content": "C"}],
        [{"reasoning": "h"}, CALL, {"reasoning": "m"}, {"content": "So."}],
        [{"reasoning": "h"}, {"content": "A"}, {"reasoning": "m"}, {"content": "B"}],
        [{"content": "A"}, {"reasoning": "hm"}, CALL],
    ],
    ids=[
        "after a call",
        "only after it",
        "between calls",
        "thought",
        "thought without a call",
        "late thought",
    ],
)
def test_a_streamed_answer_comes_back_as_what_the_model_said_in_whatever_order(pieces: list[JSON]) -> None:
    """The model said one message; the agent sends the items or blocks back of which the stream told it."""
    partial = PartialAnswer()
    deltas = [ChatDelta(0, piece) for piece in pieces]
    for delta in deltas:
        partial.add(delta)
    said = partial.message(0)
    reply = ChatReply([1], [Choice(0, said, "stop", [2], [-0.5], [])])
    hi: JSON = {"role": "user", "content": "hi"}
    calls = said.get("tool_calls", ())
    items = events_of(RESPONSES, deltas, reply)[-1]["response"]["output"]
    outputs = [{"type": "function_call_output", "call_id": each["id"], "output": "1"} for each in calls]
    by_items = RESPONSES.parse(orjson.dumps({"input": [hi, *items, *(outputs or [hi])]}))
    blocks = message_by_sdk(events_of(MESSAGES, deltas, reply)).model_dump()["content"]
    results = [{"type": "tool_result", "tool_use_id": each["id"], "content": "1"} for each in calls]
    turns = [hi, {"role": "assistant", "content": blocks}, {"role": "user", "content": results or "hi"}]
    by_blocks = MESSAGES.parse(orjson.dumps({"messages": turns, "max_tokens": 9}))
    for asked in (by_items, by_blocks):
        assert [message["role"] for message in asked.messages[:2]] == ["user", "assistant"]
        assert canonical(asked.messages[1]) == canonical(said)
        assert "assistant" not in [message["role"] for message in asked.messages[2:]]


def test_items_around_a_call_are_one_answer_whether_or_not_they_have_ids() -> None:
    """Many clients leave those out."""
    before, after = (
        [
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]},
            {"type": "message", "role": "assistant", "content": text},
        ]
        for text in ("A", "B")
    )
    made = {"type": "function_call", "call_id": "c0", "name": "add", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c0", "output": "1"}
    asked = RESPONSES.parse(orjson.dumps({"input": [*before, made, *after, output]}))
    said, result = asked.messages
    assert (said["reasoning"], said["content"], len(said["tool_calls"])) == ("AB", "AB", 1)
    assert result["role"] == "tool"


def test_what_the_agent_says_in_two_messages_or_blocks_stays_two() -> None:
    """Nothing came between, and no answer of the gateway's is told so."""
    hi: JSON = {"role": "user", "content": "hi"}
    said = [{"role": "assistant", "content": text} for text in ("A", "B")]
    assert list(RESPONSES.parse(orjson.dumps({"input": [hi, *said, hi]})).messages) == [hi, *said, hi]
    blocks: JSON = [{"type": "text", "text": text} for text in ("A", "B")]
    turns = [hi, {"role": "assistant", "content": blocks}, hi]
    asked = MESSAGES.parse(orjson.dumps({"messages": turns, "max_tokens": 9}))
    assert asked.messages[1]["content"] == "A\nB"


@pytest.mark.parametrize("depth", [100, 193, 194, 250, 254, 300, 2000])
@pytest.mark.parametrize("name", ["add", *OWN])
def test_arguments_however_deeply_they_nest_are_told_and_may_be_sent_back(name: str, depth: int) -> None:
    """Streamed or not: what JSON cannot hold as an object is text."""
    arguments = '{"a":' + "[" * depth + "]" * depth + "}"
    reply = answer("tool_calls", (name, arguments))
    hi: JSON = {"role": "user", "content": "hi"}
    streamed = events(RESPONSES, [[call(0, name, arguments)]], reply)[-1]["response"]
    for whole in (streamed, orjson.loads(orjson.dumps(RESPONSES.reply(HEAD, ASKED, reply)))):
        assert [item["call_id"] for item in whole["output"]] == ["c0"]
        RESPONSES.parse(orjson.dumps({"input": [hi, *whole["output"]]}))
    [used] = orjson.loads(orjson.dumps(MESSAGES.reply(HEAD, ASKED, reply)))["content"]
    assert used["input"] == (orjson.loads(arguments) if depth < 194 else {"arguments": arguments})
    MESSAGES.parse(
        orjson.dumps({"messages": [hi, {"role": "assistant", "content": [used]}, hi], "max_tokens": 9})
    )
    assert events(MESSAGES, [[call(0, name, arguments)]], reply)[-1]["type"] == "message_stop"


@pytest.mark.parametrize("dialect", [CHAT, COMPLETIONS, RESPONSES], ids=lambda dialect: dialect.path)
def test_the_log_probability_of_what_could_not_be_drawn_is_a_number(dialect: Dialect) -> None:
    """As with a top_p or a format: -inf is no JSON, and vLLM's own server tells -9999."""
    asked = Asked("m", AskedSampling(), {}, top_logprobs=2)
    tokens = [TokenLogprob("a", 0.0, [("a", 0.0), ("b", -math.inf)])]
    message = {"role": "assistant", "content": "a"}
    reply = ChatReply([1], [Choice(0, message, "stop", [2], [0.0], [], token_logprobs=tokens)])
    stream = dialect.stream(HEAD, asked)
    piece = ChatDelta(0, {"content": "a"}, 1, tokens)
    told = [*stream.begin(), *stream.piece(piece), *stream.end(reply)]
    for raw in (orjson.dumps(dialect.reply(HEAD, asked, reply)), b"".join(told)):
        assert b"-9999.0" in raw and b'"logprob":null' not in raw and b'"b":null' not in raw
