"""The events of a streamed answer, without a gateway around them: of one that was cut, of calls that come in
turn, of arguments that are odd, and of tokens that could not be drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import pytest

from al_ray.actors.gateway.dialects import DIALECTS
from al_ray.actors.gateway.dialects.core import Asked, AskedSampling, Dialect, Head, ToldAs
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
    stream = dialect.stream(HEAD, ASKED)
    told = [*stream.begin()]
    for calls in pieces:
        told += stream.piece(ChatDelta(0, {"tool_calls": list(calls)}))
    told += stream.end(reply)
    lines = [line for line in b"".join(told).split(b"\n") if line.startswith(b"data: {")]
    return [orjson.loads(line.removeprefix(b"data: ")) for line in lines]


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
