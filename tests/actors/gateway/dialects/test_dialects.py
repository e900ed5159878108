"""Every API as its own unmodified client meets it: answers, streams, round trips of tools, errors."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import orjson
import pytest
from pydantic import BaseModel

from al_ray.traces import semconv
from al_ray.types import ChatRequest, CompletionRequest
from tests.support.houses.gateway import TOOLS, House, beside, say


class Verdict(BaseModel):
    ok: bool


ADD: Any = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
FUNCTION: Any = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": None}


async def requests(engine: Any) -> list[Any]:
    return await engine.requests.remote()


# --- chat completions ------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
async def test_a_tool_may_be_demanded(served: House, engine_a: Any, choice: Any) -> None:
    reply = await served.ask(await served.attempt(), tools=TOOLS, tool_choice=choice)
    assert reply.choices[0].message.tool_calls[0].function.name == "add"
    assert (await requests(engine_a))[-1].tool_choice == choice


async def test_structured_output_is_parsed_by_the_client(served: House, engine_a: Any) -> None:
    async with served.client(await served.attempt()) as client:
        reply = await client.chat.completions.parse(model="m", messages=say("ok?"), response_format=Verdict)
    assert reply.choices[0].message.parsed == Verdict(ok=True)
    asked = (await requests(engine_a))[-1].response_format
    assert asked["json_schema"]["schema"]["properties"].keys() == {"ok"}


async def test_log_probabilities_are_told_where_they_are_asked_for(served: House) -> None:
    attempt = await served.attempt()
    assert (await served.ask(attempt)).choices[0].logprobs is None
    reply = await served.ask(attempt, logprobs=True, top_logprobs=2)
    content = reply.choices[0].logprobs.content
    assert [(token.token, token.logprob, token.bytes) for token in content] == [
        ("a", -0.5, [97]),
        ("0", -0.5, [48]),
    ]
    assert [top.token for top in content[0].top_logprobs] == ["a", "z"]
    chunks = await served.chunks(attempt, logprobs=True)
    told = [token.token for c in chunks if c.choices[0].logprobs for token in c.choices[0].logprobs.content]
    assert told == ["a", "0"]


# --- completions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["once", [1, 2, 3]])
async def test_a_raw_prompt_is_completed(served: House, engine_a: Any, prompt: Any) -> None:
    attempt = await served.attempt()
    async with served.client(attempt) as client:
        reply = await client.completions.create(model="m", prompt=prompt, n=2, max_tokens=5, logprobs=1)
        stream = await client.completions.create(
            model="m", prompt=prompt, stream=True, stream_options={"include_usage": True}
        )
        *chunks, last = [chunk async for chunk in stream]
    assert [choice.text for choice in reply.choices] == ["a0", "a1"]
    assert reply.choices[0].logprobs is not None
    assert reply.choices[0].logprobs.tokens == ["a", "0"]
    assert reply.usage is not None and reply.usage.total_tokens == 7
    assert "".join(chunk.choices[0].text for chunk in chunks) == "a0"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None and last.usage.completion_tokens == 2
    assert isinstance((await requests(engine_a))[-1], CompletionRequest)
    first, second = served.calls(attempt)
    assert first.id == reply.id
    assert first.attributes[semconv.OPERATION] == "text_completion"
    assert [choice["ids"] for choice in first.attributes[semconv.CHOICES]] == [[7, 8], [7, 9]]
    assert second.attributes[semconv.INPUT_MESSAGES] == (say("once") if prompt == "once" else [])


async def test_what_completions_do_not_do_is_said(served: House) -> None:
    key = (await served.attempt()).key
    for body, names in (
        ({"prompt": "x", "echo": True}, "echo: "),
        ({"prompt": ["x", "y"]}, "prompt"),
        ({"prompt": [-1]}, "prompt.0"),
        ({}, "prompt"),
    ):
        status, answer = await served.post(orjson.dumps(body), key, path="/completions")
        assert status == 400
        assert names in answer["error"]["message"]


# --- responses -------------------------------------------------------------------------------------


async def test_a_response_is_one_by_openais_own_client(served: House, engine_a: Any) -> None:
    attempt = await served.attempt()
    async with served.client(attempt) as client:
        reply = await client.responses.create(model="m", input="think", instructions="be kind")
        cut = await client.responses.create(model="m", input="long")
    assert reply.output_text == "a0"
    assert [item.type for item in reply.output] == ["reasoning", "message"]
    assert (reply.status, reply.instructions) == ("completed", "be kind")
    assert reply.usage is not None and reply.usage.total_tokens == 5
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None and cut.incomplete_details.reason == "max_output_tokens"
    asked = (await requests(engine_a))[-2]
    assert asked.messages == [{"role": "system", "content": "be kind"}, *say("think")]
    assert [span.id for span in served.calls(attempt)] == [reply.id, cut.id]


async def test_a_streamed_response_adds_up_to_the_same(served: House) -> None:
    async with served.client(await served.attempt()) as client:
        async with client.responses.stream(model="m", input="think") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        whole = await client.responses.create(model="m", input="think")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "a0"
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == "hm"
    assert final.output_text == whole.output_text == "a0"
    assert [item.type for item in final.output] == [item.type for item in whole.output]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_function_goes_there_and_back(served: House, engine_a: Any, stream: bool) -> None:
    """Also when the agent sends back what it was sent, as the API's own examples do."""
    attempt = await served.attempt()
    async with served.client(attempt) as client:
        if stream:
            async with client.responses.stream(model="m", input="2+1?", tools=[FUNCTION]) as events:
                reply: Any = await events.get_final_response()
        else:
            reply = await client.responses.create(model="m", input="2+1?", tools=[FUNCTION])
        [call] = reply.output
        assert (call.type, call.name, call.arguments) == ("function_call", "add", '{"x": 1}')
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "3"}
        sent = [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in reply.output]
        await client.responses.create(model="m", input=[*say("2+1?"), *sent, output])
        by_items = (await requests(engine_a))[-1].messages
        await client.responses.create(model="m", input=[output], previous_response_id=reply.id)
        by_id = (await requests(engine_a))[-1].messages
    function = {"name": "add", "arguments": '{"x": 1}'}
    calls = [{"id": "call-1", "type": "function", "function": function}]
    assert by_items == [
        *say("2+1?"),
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call-1", "content": "3"},
    ]
    assert by_id == by_items


async def test_a_response_is_continued_at_any_gateway_but_by_its_own_attempt_alone(
    served: House, engine_a: Any
) -> None:
    """Without the instructions of before, as OpenAI has it."""
    attempt, stranger = await served.attempt(), await served.attempt()
    async with served.client(attempt) as client:
        first = await client.responses.create(model="m", input="hi", instructions="be kind")
    async with beside(served, engine_a) as other, other.client(attempt) as client:
        await client.responses.create(
            model="m", input="bye", instructions="be brief", previous_response_id=first.id
        )
    assert (await requests(engine_a))[-1].messages == [
        {"role": "system", "content": "be brief"},
        *say("hi"),
        {"role": "assistant", "content": "a0"},
        *say("bye"),
    ]
    async with served.client(stranger) as client:
        with pytest.raises(openai.BadRequestError, match="previous_response_id: this attempt has no"):
            await client.responses.create(model="m", input="bye", previous_response_id=first.id)


async def test_a_responses_text_may_have_a_format(served: House, engine_a: Any) -> None:
    async with served.client(await served.attempt()) as client:
        reply = await client.responses.parse(model="m", input="ok?", text_format=Verdict)
    assert reply.output_parsed == Verdict(ok=True)
    assert (await requests(engine_a))[-1].response_format["type"] == "json_schema"


async def test_a_response_that_fails_midway_tells_its_client(house: House, mortal: tuple[Any, Any]) -> None:
    async with house.client(await house.attempt()) as client:
        stream = await client.responses.create(model="m", input="die a after a piece", stream=True)
        with pytest.raises(openai.APIError, match="the engine died in the middle of its answer"):
            _ = [event async for event in stream]


# --- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/responses", {"input": []}),
        ("/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": []}]}),
        ("/messages/count_tokens", {"messages": [{"role": "user", "content": []}]}),
    ],
)
async def test_a_conversation_in_which_nothing_is_said_is_refused(
    served: House, path: str, body: dict[str, Any]
) -> None:
    status, answer = await served.post(orjson.dumps(body), (await served.attempt()).key, path)
    assert (status, "nothing to be answered" in answer["error"]["message"]) == (400, True)


async def test_a_message_is_one_by_anthropics_own_client(served: House, engine_a: Any) -> None:
    attempt = await served.attempt()
    async with served.anthropic(attempt) as client:
        reply = await client.messages.create(
            model="m", max_tokens=9, messages=say("think"), system="be kind", stop_sequences=["x"]
        )
        cut = await client.messages.create(model="m", max_tokens=9, messages=say("long"))
        stopped = await client.messages.create(model="m", max_tokens=9, messages=say("stop"))
    assert [(block.type, getattr(block, "text", None)) for block in reply.content] == [
        ("thinking", None),
        ("text", "a0"),
    ]
    assert (reply.stop_reason, reply.role, reply.model) == ("end_turn", "assistant", "toy")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (3, 2)
    assert cut.stop_reason == "max_tokens"
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "x")
    asked = (await requests(engine_a))[-3]
    assert asked.messages == [{"role": "system", "content": "be kind"}, *say("think")]
    assert (asked.sampling.max_tokens, asked.sampling.stop) == (9, ("x",))
    assert [span.id for span in served.calls(attempt)] == [reply.id, cut.id, stopped.id]


async def test_a_streamed_message_adds_up_to_the_same(served: House) -> None:
    async with served.anthropic(await served.attempt()) as client:
        async with client.messages.stream(model="m", max_tokens=9, messages=say("think")) as stream:
            text = [piece async for piece in stream.text_stream]
            final = await stream.get_final_message()
        whole = await client.messages.create(model="m", max_tokens=9, messages=say("think"))
    assert text == ["a", "0"]
    assert [b.model_dump() for b in final.content] == [b.model_dump() for b in whole.content]
    assert (final.stop_reason, final.usage.input_tokens) == ("end_turn", 3)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_used_and_its_result_comes_back(served: House, engine_a: Any, stream: bool) -> None:
    async with served.anthropic(await served.attempt()) as client:
        asked: Any = {"model": "m", "max_tokens": 9, "tools": [ADD], "messages": say("2+1?")}
        if stream:
            async with client.messages.stream(**asked) as events:
                reply = await events.get_final_message()
        else:
            reply = await client.messages.create(**asked, tool_choice={"type": "any"})
        [use] = reply.content
        assert isinstance(use, anthropic.types.ToolUseBlock)
        assert (use.name, use.input, reply.stop_reason) == ("add", {"x": 1}, "tool_use")
        result: Any = {
            "type": "tool_result",
            "tool_use_id": use.id,
            "content": [{"type": "text", "text": "3"}],
        }
        conversation: Any = [
            *say("2+1?"),
            {"role": "assistant", "content": reply.content},
            {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
        ]
        await client.messages.create(model="m", max_tokens=9, messages=conversation)
    first, last = [request for request in (await requests(engine_a))[-2:] if isinstance(request, ChatRequest)]
    assert first.tool_choice == (None if stream else "required")
    assert first.tools == [
        {
            "type": "function",
            "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}},
        }
    ]
    function = {"name": "add", "arguments": '{"x":1}'}
    calls = [{"id": "call-1", "type": "function", "function": function}]
    assert last.messages == [
        *say("2+1?"),
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call-1", "content": "3"},
        *say("and?"),
    ]


async def test_tokens_are_counted_as_the_engine_renders_them(served: House) -> None:
    attempt = await served.attempt()
    async with served.anthropic(attempt) as client:
        counted = await client.messages.count_tokens(
            model="m", messages=say("hi"), system="be kind", tools=[ADD]
        )
    assert counted.input_tokens == 22
    assert served.calls(attempt) == []


async def test_tokens_of_what_the_model_cannot_read_are_not_counted(served: House) -> None:
    attempt = await served.attempt()
    source: Any = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    image: Any = {"type": "image", "source": source}
    async with served.anthropic(attempt) as client:
        with pytest.raises(anthropic.BadRequestError, match="the trained model reads text alone"):
            await client.messages.count_tokens(model="m", messages=[{"role": "user", "content": [image]}])


async def test_anthropics_client_knows_every_failure(served: House, house: House) -> None:
    attempt = await served.attempt()
    async with served.anthropic(attempt) as client:
        for content, failure in (("bad", anthropic.BadRequestError), ("bug", anthropic.InternalServerError)):
            with pytest.raises(failure):
                await client.messages.create(model="m", max_tokens=9, messages=say(content))
        with pytest.raises(anthropic.BadRequestError, match="max_tokens: Input should be greater") as caught:
            await client.messages.create(model="m", max_tokens=0, messages=say("hi"))
        assert caught.value.type == "invalid_request_error"
        await served.end(attempt)
        with pytest.raises(anthropic.AuthenticationError, match="timed_out") as refused:
            await client.messages.create(model="m", max_tokens=9, messages=say("hi"))
        assert refused.value.type == "authentication_error"


async def test_a_message_that_fails_midway_tells_its_client(house: House, mortal: tuple[Any, Any]) -> None:
    async with house.anthropic(await house.attempt()) as client:
        stream = await client.messages.create(
            model="m", max_tokens=9, messages=say("die a after a piece"), stream=True
        )
        with pytest.raises(anthropic.APIError, match="the engine died in the middle of its answer"):
            _ = [event async for event in stream]
