"""OpenAI's wire format, without a wire."""

from __future__ import annotations

import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from al_ray.actors.chat_api import (
    MAX_CHOICES,
    ChatBody,
    ReplyHead,
    chat_chunks,
    chat_completion,
    parse_chat_body,
)
from al_ray.errors import BadRequestError
from al_ray.types import JSON, ChatDelta, ChatReply, Choice

HEAD = ReplyHead("chatcmpl-1", "toy", 1_700_000_000)
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
REPLY = ChatReply(
    [1, 2, 3],
    [
        Choice(0, {"role": "assistant", "content": "hi"}, "stop", [4, 5], [-0.1, -0.2], ()),
        Choice(
            1, {"role": "assistant", "content": None, "tool_calls": [CALL]}, "tool_calls", [6], [-0.3], ()
        ),
    ],
)


def parse(**fields: JSON) -> ChatBody:
    return parse_chat_body(orjson.dumps({"messages": [{"role": "user", "content": "x"}]} | fields))


def test_a_completion_is_one_by_openais_own_types() -> None:
    completion = ChatCompletion.model_validate(chat_completion(HEAD, REPLY), strict=True)
    assert [choice.message.content for choice in completion.choices] == ["hi", None]
    assert completion.choices[1].message.tool_calls is not None
    assert completion.usage is not None
    assert (completion.usage.completion_tokens, completion.usage.total_tokens) == (3, 6)
    assert (completion.id, completion.created) == (HEAD.id, HEAD.created)


def test_chunks_are_chunks_by_openais_own_types() -> None:
    pieces = [ChatDelta(0, {"role": "assistant", "content": ""}), ChatDelta(1, {"content": "hi"}), REPLY]
    chunks = [
        ChatCompletionChunk.model_validate(chunk, strict=True)
        for piece in pieces
        for chunk in chat_chunks(HEAD, piece, include_usage=True)
    ]
    told = [(c.choices[0].index, c.choices[0].finish_reason) for c in chunks if c.choices]
    assert told == [(0, None), (1, None), (0, "stop"), (1, "tool_calls")]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert len(list(chat_chunks(HEAD, REPLY, include_usage=False))) == 2


def test_only_what_the_agent_said_counts_as_asked() -> None:
    assert parse().asked == {}
    assert parse(stop="x", n=2, temperature=0, user="me").asked == {
        "stop": ["x"],
        "n": 2,
        "temperature": 0.0,
    }


def test_every_mistake_in_a_body_is_named_at_once() -> None:
    with pytest.raises(BadRequestError) as caught:
        parse(n=MAX_CHOICES + 1, top_p=0, tool_choice="required")
    message = str(caught.value)
    assert "n: " in message
    assert "top_p: " in message
    assert "tool_choice: Input should be 'auto' or 'none'" in message
