"""What servers answer in their own ways: it is read for what it says, or told as the failure that it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anthropic
import openai
import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from al_ray.actors.gateway.calls.hosted.answer import choice_of
from al_ray.actors.gateway.calls.hosted.model import HostedModelSpec
from al_ray.actors.gateway.dialects.logprobs import TextTokens, openai_logprobs
from al_ray.traces import call_span, semconv
from tests.support.houses.gateway import SPEC, TOOLS, House, beside, say

pytestmark = pytest.mark.asyncio(loop_scope="module")

USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 4,
    "total_tokens": 34,
    "prompt_tokens_details": {"cached_tokens": 20},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
ADD: Any = {"name": "add", "input_schema": {"type": "object"}}
FLAT: Any = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": None}


@dataclass(frozen=True)
class Whole:
    """An answer at once, with whatever was asked."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] | None = None


def call_piece(name: str | None = None, arguments: str = "", **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {"function": function, **more}


def piece(*calls: Any, reason: str | None = None, **delta: Any) -> dict[str, Any]:
    told = delta | ({"tool_calls": list(calls)} if calls else {})
    return {"choices": [{"index": 0, "delta": told, "finish_reason": reason}]}


def message(reason: str = "stop", **fields: Any) -> Whole:
    told = {"role": "assistant", "content": None, **fields}
    choice = {"index": 0, "message": told, "finish_reason": reason}
    return Whole({"id": "x", "choices": [choice], "usage": USAGE})


THOUGHT: Any = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
REFERENCE: Any = {"type": "reference", "reference_ids": [1]}
"""Parts of content as Mistral's server has them."""
ANSWERS: Mapping[str, Whole | Sequence[Any]] = {
    "in turn": [
        piece(call_piece("add", index=0, id="c0", type="function")),
        piece(call_piece("find", index=1, id="c1", type="function")),
        piece(call_piece(None, '{"x":', index=0)),
        piece(call_piece(None, '{"y":', index=1)),
        piece(call_piece(None, " 1}", index=0)),
        piece(call_piece(None, " 2}", index=1), reason="tool_calls"),
    ],
    "without index": [
        {"choices": [{"delta": {"tool_calls": [call_piece("add", '{"x":', id="c0")]}}]},
        {"choices": [{"delta": {"tool_calls": [call_piece(None, " 1}")]}}]},
        {"choices": [{"delta": {"tool_calls": [call_piece("find", '{"y": 2}', id="c1")]}}]},
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
    ],
    "whole without index": Whole(
        {"choices": [{"message": {"role": "assistant", "content": "wise"}, "finish_reason": "stop"}]}
    ),
    "object": Whole(
        {"choices": [{"message": {"tool_calls": [{"function": {"name": "add", "arguments": {"x": 1}}}]}}]}
    ),
    "numbers": Whole({"choices": [{"index": "first", "message": {"content": "x"}}]}),
    "error at once": Whole({"error": {"message": "overloaded", "code": "engine_overloaded"}}),
    "error as text": Whole({"error": "overloaded"}),
    "vllm's error": Whole({"object": "error", "message": "overloaded", "code": 400}),
    "no choices": Whole({"id": "x", "choices": []}),
    "unfinished": [piece(content="wi")],
    "nothing": [],
    "thinks": message(content="wise", reasoning_content="hm"),
    "thinks in pieces": [
        piece(reasoning_content="h"),
        piece(reasoning_content="m"),
        piece(content="wise", reason="stop"),
    ],
    "thinks in parts": message(content=[*THOUGHT, {"type": "text", "text": "wi"}, REFERENCE, "se"]),
    "thinks in pieces of parts": [
        piece(content=[{"type": "thinking", "thinking": "h"}]),
        piece(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "m"}]}]),
        piece(content=[{"type": "text", "text": "wi"}, REFERENCE]),
        piece(content="se", reason="stop"),
    ],
    "stops": message(tool_calls=[{"id": "c0", **call_piece("add", "{}")}]),
    "stops in pieces": [piece(call_piece("add", "{}", index=0, id="c0"), reason="stop")],
    "no arguments": message(tool_calls=[{"function": {"name": "add", "arguments": None}}]),
    "refuses": message(refusal="no"),
    "refuses in pieces": [piece(refusal="n"), piece(refusal="o", reason="stop")],
    "busy": Whole(
        {"error": {"message": "come back later", "code": "rate_limit_exceeded"}}, 429, {"Retry-After": "7"}
    ),
}


async def answer(request: web.Request) -> web.StreamResponse:
    """What the last message names."""
    body = await request.json()
    told = ANSWERS[body["messages"][-1]["content"]]
    if isinstance(told, Whole):
        return web.json_response(told.body, status=told.status, headers=told.headers)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for chunk in (*told, {"choices": [], "usage": USAGE}):
        await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hosting(house: House, engine_a: Any) -> AsyncIterator[House]:
    """The house with a gateway that knows the server as ``wise``. Each test has attempts of its own there."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    listening = TestServer(app)
    await listening.start_server()
    hosted = {"wise": HostedModelSpec(str(listening.make_url("/v1")), "wise-1", None)}
    async with beside(house, engine_a, replace(SPEC, hosted=hosted)) as gateway:
        yield gateway
    await listening.close()


async def streamed_message(house: House, order: str, **options: Any) -> Any:
    async with (
        house.anthropic(await house.attempt()) as client,
        client.messages.stream(model="wise", max_tokens=9, messages=say(order), **options) as stream,
    ):
        return await stream.get_final_message()


async def streamed_response(house: House, order: str, **options: Any) -> Any:
    async with (
        house.client(await house.attempt()) as client,
        client.responses.stream(model="wise", input=order, **options) as stream,
    ):
        return await stream.get_final_response()


@pytest.mark.parametrize("order", ["in turn", "without index"])
async def test_two_calls_are_two_in_every_api_however_their_pieces_come(hosting: House, order: str) -> None:
    """In turn, and without a number that says of which call a piece is."""
    expected = [("c0", "add", {"x": 1}), ("c1", "find", {"y": 2})]
    told = await streamed_message(hosting, order, tools=[ADD])
    assert [(block.id, block.name, block.input) for block in told.content] == expected
    response = await streamed_response(hosting, order, tools=[FLAT])
    calls = [(item.call_id, item.name, orjson.loads(item.arguments)) for item in response.output]
    assert calls == expected
    attempt = await hosting.attempt()
    async with (
        hosting.client(attempt) as client,
        client.chat.completions.stream(model="wise", messages=say(order), tools=TOOLS) as stream,
    ):
        completion = await stream.get_final_completion()
    asked = completion.choices[0].message.tool_calls
    assert asked is not None
    assert [(c.id, c.function.name, orjson.loads(c.function.arguments)) for c in asked] == expected
    [span] = hosting.calls(attempt)
    [recorded] = span.attributes[semconv.OUTPUT_MESSAGES]
    assert [call["id"] for call in recorded["tool_calls"]] == ["c0", "c1"]


async def test_a_choice_without_a_number_has_its_place(hosting: House) -> None:
    async with hosting.client(await hosting.attempt()) as client:
        reply = await client.chat.completions.create(model="wise", messages=say("whole without index"))
    assert [(choice.index, choice.message.content) for choice in reply.choices] == [(0, "wise")]


async def test_a_call_that_leaves_out_what_agents_read_is_given_it(hosting: House) -> None:
    """Its id, its type, and its arguments as text; and the reason why the answer ended."""
    async with hosting.client(await hosting.attempt()) as client:
        reply = await client.chat.completions.create(model="wise", messages=say("object"), tools=TOOLS)
        response = await client.responses.create(model="wise", input="object", tools=[FLAT])
    [call] = reply.choices[0].message.tool_calls or ()
    assert (call.type, call.function.arguments) == ("function", '{"x":1}')  # type: ignore[union-attr]
    assert call.id and reply.choices[0].finish_reason == "tool_calls"
    assert response.output[0].arguments == '{"x":1}'  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_calls_tools_ends_for_that_whatever_its_server_says(
    hosting: House, stream: bool
) -> None:
    """Agents go on for as long as it does."""
    attempt = await hosting.attempt()
    order = "stops in pieces" if stream else "stops"
    async with hosting.client(attempt) as client, hosting.anthropic(attempt) as other:
        if stream:
            told: Any = await streamed_message(hosting, order, tools=[ADD])
            asked: Any = {"model": "wise", "messages": say(order), "tools": TOOLS}
            async with client.chat.completions.stream(**asked) as chunks:
                reply: Any = await chunks.get_final_completion()
        else:
            told = await other.messages.create(model="wise", max_tokens=9, messages=say(order), tools=[ADD])
            reply = await client.chat.completions.create(model="wise", messages=say(order), tools=TOOLS)
    assert (told.stop_reason, reply.choices[0].finish_reason) == ("tool_use", "tool_calls")
    assert [span.attributes[semconv.FINISH_REASONS] for span in hosting.calls(attempt)][-1] == ["tool_calls"]


HALVES: Any = [
    {"token": "\\xf0\\x9f", "logprob": -0.1, "bytes": [0xF0, 0x9F]},
    {"token": "\\x98\\x80", "logprob": -0.2, "bytes": [0x98, 0x80]},
    {"token": "!", "logprob": -0.3, "bytes": None},
]
"""Of a face and a mark, as OpenAI's server tells them."""


async def test_a_hosted_models_tokens_are_told_with_their_own_bytes() -> None:
    """A token may be half a character, which has no text; so may one of the likeliest be."""
    told = [half | {"top_logprobs": HALVES} for half in HALVES]
    choice = choice_of({"message": {"content": "\U0001f600!"}, "logprobs": {"content": told}}, 0)
    expected = [half | {"bytes": half["bytes"] or [0x21]} for half in HALVES]
    assert openai_logprobs(choice.token_logprobs) == [half | {"top_logprobs": expected} for half in expected]
    assert TextTokens().of(choice.message, choice.token_logprobs) == choice.token_logprobs


@pytest.mark.parametrize(
    ("order", "stream", "says"),
    [
        *(
            (order, stream, "overloaded")
            for order in ("error at once", "error as text", "vllm's error")
            for stream in (False, True)
        ),
        ("no choices", False, "no choices"),
        ("numbers", False, "no chat completion"),
        ("thinks", True, "asked to stream, and answered at once"),
        ("unfinished", True, "ended before the answer did"),
        ("nothing", True, "ended before the answer did"),
    ],
)
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_what_is_no_answer_is_a_failure_in_the_apis_own_shape_and_no_call_that_was_answered(
    hosting: House, order: str, stream: bool, says: str, api: str
) -> None:
    """Nor is it recorded at all, unless the agent has seen some of it."""
    attempt = await hosting.attempt()
    asked: Any = {"model": "wise", "stream": stream}
    with pytest.raises((openai.APIError, anthropic.APIError), match=says) as caught:
        if api == "messages":
            async with hosting.anthropic(attempt) as client:
                told: Any = await client.messages.create(**asked, max_tokens=9, messages=say(order))
                _ = [event async for event in told]
        else:
            async with hosting.client(attempt) as other:
                if api == "chat":
                    told = await other.chat.completions.create(**asked, messages=say(order))
                else:
                    told = await other.responses.create(**asked, input=order)
                _ = [event async for event in told]
    if order == "unfinished":  # that stream had begun
        [call] = hosting.calls(attempt)
        assert call_span.is_aborted(call)
        return
    assert isinstance(caught.value, openai.APIStatusError | anthropic.APIStatusError)
    assert caught.value.status_code == 502
    assert hosting.calls(attempt) == []


@pytest.mark.parametrize(("order", "stream"), [("thinks", False), ("thinks in pieces", True)])
async def test_what_a_hosted_model_thinks_is_kept(hosting: House, order: str, stream: bool) -> None:
    """Under the name that its server gives it, and in the other APIs under theirs."""
    attempt = await hosting.attempt()
    async with hosting.client(attempt) as client:
        if stream:
            chunks = await client.chat.completions.create(model="wise", messages=say(order), stream=True)
            deltas = [chunk.choices[0].delta async for chunk in chunks]
            thought = "".join(getattr(delta, "reasoning_content", "") for delta in deltas[:2])
            response = await streamed_response(hosting, order)
            told = await streamed_message(hosting, order)
        else:
            reply = await client.chat.completions.create(model="wise", messages=say(order))
            thought = reply.choices[0].message.reasoning_content  # type: ignore[attr-defined]
            response = await client.responses.create(model="wise", input=order)
            async with hosting.anthropic(attempt) as other:
                told = await other.messages.create(model="wise", max_tokens=9, messages=say(order))
    assert thought == "hm"
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].content[0].text == "hm"
    assert [block.type for block in told.content] == ["thinking", "text"]
    assert told.content[0].thinking == "hm"
    [recorded] = hosting.calls(attempt)[0].attributes[semconv.OUTPUT_MESSAGES]
    assert recorded["reasoning_content"] == "hm"


@pytest.mark.parametrize(
    ("order", "stream"), [("thinks in parts", False), ("thinks in pieces of parts", True)]
)
async def test_content_in_parts_is_text_and_what_was_thought(
    hosting: House, order: str, stream: bool
) -> None:
    """As Mistral's models that think have it; in every API and in the record."""
    attempt = await hosting.attempt()
    async with hosting.client(attempt) as client:
        if stream:
            chunks = await client.chat.completions.create(model="wise", messages=say(order), stream=True)
            deltas = [chunk.choices[0].delta async for chunk in chunks]
            said = "".join(delta.content or "" for delta in deltas)
            thought = "".join(getattr(delta, "reasoning", "") for delta in deltas)
            response = await streamed_response(hosting, order)
            told = await streamed_message(hosting, order)
        else:
            reply = (await client.chat.completions.create(model="wise", messages=say(order))).choices[0]
            said, thought = reply.message.content or "", reply.message.reasoning  # type: ignore[attr-defined]
            response = await client.responses.create(model="wise", input=order)
            async with hosting.anthropic(attempt) as other:
                told = await other.messages.create(model="wise", max_tokens=9, messages=say(order))
    assert (said, thought) == ("wise", "hm")
    assert [item.content[0].text for item in response.output] == ["hm", "wise"]
    assert [getattr(block, block.type) for block in told.content] == ["hm", "wise"]
    [recorded] = hosting.calls(attempt)[0].attributes[semconv.OUTPUT_MESSAGES]
    assert recorded == {"role": "assistant", "content": "wise", "reasoning": "hm"}


async def test_a_call_without_arguments_has_none_in_words(hosting: House) -> None:
    async with hosting.client(await hosting.attempt()) as client:
        reply = await client.chat.completions.create(model="wise", messages=say("no arguments"), tools=TOOLS)
        response = await client.responses.create(model="wise", input="no arguments", tools=[FLAT])
    [call] = reply.choices[0].message.tool_calls or ()
    assert call.function.arguments == response.output[0].arguments == ""  # type: ignore[union-attr]


@pytest.mark.parametrize(("order", "stream"), [("refuses", False), ("refuses in pieces", True)])
async def test_what_a_hosted_model_refuses_is_kept(hosting: House, order: str, stream: bool) -> None:
    attempt = await hosting.attempt()
    async with hosting.client(attempt) as client:
        if stream:
            response = await streamed_response(hosting, order)
            told = await streamed_message(hosting, order)
            async with client.chat.completions.stream(model="wise", messages=say(order)) as chunks:
                reply: Any = await chunks.get_final_completion()
        else:
            response = await client.responses.create(model="wise", input=order)
            async with hosting.anthropic(attempt) as other:
                told = await other.messages.create(model="wise", max_tokens=9, messages=say(order))
            reply = await client.chat.completions.create(model="wise", messages=say(order))
    [item] = response.output
    assert (item.type, item.content[0].type, item.content[0].refusal) == ("message", "refusal", "no")
    assert (told.stop_reason, told.content[0].text) == ("refusal", "no")
    assert reply.choices[0].message.refusal == "no"
    for span in hosting.calls(attempt):
        assert span.attributes[semconv.OUTPUT_MESSAGES][0]["refusal"] == "no"


async def test_what_a_hosted_model_counts_is_passed_on(hosting: House) -> None:
    attempt = await hosting.attempt()
    async with hosting.client(attempt) as client:
        reply = await client.chat.completions.create(model="wise", messages=say("thinks"))
        response = await client.responses.create(model="wise", input="thinks")
        again = await client.responses.retrieve(response.id)
    told = await streamed_message(hosting, "thinks in pieces")
    assert reply.usage and reply.usage.prompt_tokens_details and reply.usage.completion_tokens_details
    assert reply.usage.prompt_tokens_details.cached_tokens == 20
    assert reply.usage.completion_tokens_details.reasoning_tokens == 3
    assert response.usage and response.usage.input_tokens_details.cached_tokens == 20
    assert response.usage.output_tokens_details.reasoning_tokens == 3
    assert again.usage == response.usage
    assert (told.usage.input_tokens, told.usage.cache_read_input_tokens) == (10, 20)


async def test_a_failures_code_and_when_to_come_again_are_passed_on(hosting: House) -> None:
    attempt = await hosting.attempt()
    async with hosting.client(attempt) as client:
        with pytest.raises(openai.RateLimitError, match="come back later") as caught:
            await client.chat.completions.create(model="wise", messages=say("busy"))
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after"] == "7"
    async with hosting.anthropic(attempt) as other:
        with pytest.raises(anthropic.RateLimitError, match="come back later") as refused:
            await other.messages.create(model="wise", max_tokens=9, messages=say("busy"))
    assert refused.value.response.headers["retry-after"] == "7"


async def test_a_hosted_models_tokens_are_not_counted_by_another_models_tokenizer(hosting: House) -> None:
    async with hosting.anthropic(await hosting.attempt()) as client:
        with pytest.raises(anthropic.BadRequestError, match="cannot be counted"):
            await client.messages.count_tokens(model="wise", messages=say("hi"))
        counted = await client.messages.count_tokens(model="toy", messages=say("hi"))
    assert counted.input_tokens > 0
