"""Which tokens the text of a response is told with, streamed and whole."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import pytest

from al_ray.actors.gateway.calls.partial import PartialAnswer
from al_ray.actors.gateway.dialects import DIALECTS
from al_ray.actors.gateway.dialects.core import Asked, AskedSampling, Head
from al_ray.types import JSON, ChatDelta, ChatReply, Choice, TokenLogprob

_, _, RESPONSES, _ = DIALECTS
HEAD = Head("resp_1", "toy", 0)
ASKED = Asked("m", AskedSampling(), {}, top_logprobs=0)
CALL: JSON = {"tool_calls": [{"index": 0, "id": "c0", "function": {"name": "add", "arguments": "{}"}}]}
Piece = tuple[JSON, str]
"""What is told, and the tokens with which it came, between bars."""
THOUGHT: Sequence[Piece] = [({}, "<think>"), ({"reasoning": "4 or"}, "4| or"), ({}, "</think>")]
CALLED: Sequence[Piece] = [({}, "<tool_call>|\n"), (CALL, "{|}"), ({}, "</tool_call>")]
END: Sequence[Piece] = [({}, "<end>")]
ANSWERS: dict[str, tuple[Sequence[Piece], list[str]]] = {
    "text": ([({"content": "4"}, "4"), ({"content": " or"}, " or"), *END], ["4", " or"]),
    "thought": ([*THOUGHT, ({"content": "\n4"}, "\n|4"), *END], ["\n", "4"]),
    "thought and text at once": ([({"reasoning": "4", "content": "4"}, "<think>|4|</think>|4"), *END], ["4"]),
    "call": ([({"content": "4"}, "4"), *CALLED, *END], ["4"]),
    "call and text at once": ([({"content": "4", **CALL}, "4|<tool_call>|4"), *END], ["4"]),
    "text after a call": (
        [({"content": "4"}, "4"), *CALLED, ({"content": " So"}, " So"), *END],
        ["4", " So"],
    ),
    "held back": (
        [({"content": "a"}, "a|b"), ({"content": "b"}, "c"), ({"content": "c"}, "")],
        ["a", "b", "c"],
    ),
    "cut within a token": ([({"content": "4"}, "4"), ({"content": "."}, ".\n\n"), *END], ["4", ".\n\n"]),
    "halves of a character": ([({}, ""), ({"content": "\u00e9"}, "\u00e9"), *END], ["", "\u00e9"]),
    "calls alone": ([*CALLED, *END], []),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_responses_text_has_the_tokens_of_the_text_alone_streamed_or_not(name: str) -> None:
    """None of the thoughts, the calls and the end of the turn: a mean over them is the text's."""
    pieces, expected = ANSWERS[name]
    deltas = [ChatDelta(0, told, 1, tokens_of(tokens)) for told, tokens in pieces]
    partial = PartialAnswer()
    stream = RESPONSES.stream(HEAD, ASKED)
    events = [*stream.begin()]
    for delta in deltas:
        partial.add(delta)
        events += stream.piece(delta)
    tokens = [token for delta in deltas for token in delta.token_logprobs]
    reply = ChatReply([1], [Choice(0, partial.message(0), "stop", [2], [-0.5], [], token_logprobs=tokens)])
    events += stream.end(reply)
    told = [orjson.loads(event.partition(b"data: ")[2]) for event in events]
    pieces_of_text = [each for each in told if each["type"] == "response.output_text.delta"]
    assert [each["token"] for piece in pieces_of_text for each in piece["logprobs"]] == expected
    assert tokens_told(told[-1]["response"]["output"]) == expected
    assert tokens_told(RESPONSES.reply(HEAD, ASKED, reply)["output"]) == expected


def test_tokens_that_do_not_spell_the_text_are_all_told() -> None:
    """As those of a tokenizer that drops spaces."""
    message = {"role": "assistant", "content": "4 or 5"}
    choice = Choice(0, message, "stop", [2], [-0.5], [], token_logprobs=tokens_of("4|or|5"))
    output = RESPONSES.reply(HEAD, ASKED, ChatReply([1], [choice]))["output"]
    assert tokens_told(output) == ["4", "or", "5"]


def tokens_of(texts: str) -> list[TokenLogprob]:
    return [TokenLogprob(text, -0.5) for text in texts.split("|")]


def tokens_told(output: JSON) -> list[str]:
    texts = [item["content"][0] for item in output if item["type"] == "message"]
    return [each["token"] for text in texts for each in text["logprobs"]]
