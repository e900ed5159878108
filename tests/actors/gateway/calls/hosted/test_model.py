"""Hosted models behind the gateway: for agents that are not trained."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import openai
import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from al_ray.actors.gateway.calls.hosted.model import HostedModelSpec
from al_ray.rollouts.trajectory import trajectory
from al_ray.traces import semconv
from tests.support.houses.gateway import SPEC, TOOLS, House, beside, say

pytestmark = pytest.mark.asyncio(loop_scope="module")
module_loop = pytest_asyncio.fixture(scope="module", loop_scope="module")

USAGE = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34}


class Server:
    """OpenAI's chat completions without a model; what the last message says is what it does."""

    def __init__(self) -> None:
        self.hung_up = asyncio.Event()
        self.forget()

    def forget(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.hung_up.clear()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.keys.append(request.headers.get("Authorization", ""))
        order = body["messages"][-1]["content"]
        if order == "too often":
            return web.json_response({"error": {"message": "come back later"}}, status=429)
        if order in ("429", "503") and len(self.bodies) == 1:
            error = {"error": {"message": "come back in a second"}}
            return web.json_response(error, status=int(order), headers={"Retry-After": "1"})
        if order == "nonsense":
            return web.json_response([1])
        if body.get("stream"):
            return await self._stream(request, order)
        message = {"role": "assistant", "content": "wise", "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return web.json_response({"id": "x", "choices": [choice], "usage": USAGE})

    async def _stream(self, request: web.Request, order: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": a comment\n\n")
        for piece, reason in (("wi", None), ("se", "stop")):
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": reason}
            await response.write(b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n")
            if order == "wait":
                try:
                    await asyncio.sleep(60)
                finally:
                    self.hung_up.set()
        await response.write(b"data: " + orjson.dumps({"choices": [], "usage": USAGE}) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


@module_loop
async def one_server() -> Server:
    return Server()


@pytest.fixture
def server(one_server: Server) -> Server:
    """It has been asked nothing yet."""
    one_server.forget()
    return one_server


@module_loop
async def hosting(house: House, engine_a: Any, one_server: Server) -> AsyncIterator[House]:
    """The house with a gateway that knows the server's model as ``wise``, and one that nobody serves. Each
    test has attempts of its own there."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", one_server.answer)
    listening = TestServer(app, handler_cancellation=True)
    await listening.start_server()
    hosted = {
        "wise": HostedModelSpec(str(listening.make_url("/v1")), "wise-1", "sk-secret"),
        "absent": HostedModelSpec("http://127.0.0.1:1/v1", "absent-1", None),
    }
    async with beside(house, engine_a, replace(SPEC, hosted=hosted)) as gateway:
        yield gateway
    await listening.close()


async def test_a_call_goes_to_the_hosted_model_that_it_names_and_is_never_trained(
    hosting: House, server: Server
) -> None:
    """As the agent asked it: nothing is pinned, and fields that we do not know go through."""
    attempt = await hosting.attempt()
    async with hosting.client(attempt) as client:
        reply = await client.chat.completions.create(
            model="wise", messages=say("hello"), temperature=0.3, max_tokens=5, presence_penalty=0.1
        )
        trained = await client.chat.completions.create(model="toy", messages=say("hello"))
        assert [model.id for model in (await client.models.list()).data] == ["toy", "wise", "absent"]
    assert reply.choices[0].message.content == "wise"
    assert (reply.model, reply.usage and reply.usage.total_tokens) == ("wise", 34)
    assert trained.choices[0].message.content == "a0"
    assert server.bodies == [
        {
            "model": "wise-1",
            "messages": say("hello"),
            "temperature": 0.3,
            "max_tokens": 5,
            "presence_penalty": 0.1,
        }
    ]
    assert server.keys == ["Bearer sk-secret"]
    hosted, ours = hosting.calls(attempt)
    assert hosted.attributes[semconv.HOSTED] and semconv.HOSTED not in ours.attributes
    assert hosted.attributes[semconv.INPUT_TOKENS] == 30
    assert hosted.attributes[semconv.OUTPUT_MESSAGES] == [{"role": "assistant", "content": "wise"}]
    assert semconv.LINEAGE in ours.attributes and semconv.LINEAGE not in hosted.attributes
    learnt = trajectory(hosting.rollout(attempt))
    assert [transition.id for transition in learnt.transitions] == [f"{ours.id}/0"]
    assert learnt.left_out == {"no_token_ids": 1}


async def test_what_only_a_hosted_model_may_know_goes_there_as_it_came(
    hosting: House, server: Server
) -> None:
    """What the trained model could not be asked, tools of other types, pictures."""
    search = {"type": "web_search", "size": 3}
    picture: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    show: Any = [{"role": "user", "content": [picture]}, *say("hello")]
    attempt = await hosting.attempt()
    async with hosting.client(attempt) as client:
        tools: Any = [*TOOLS, search]
        await client.chat.completions.create(
            model="wise", messages=show, tools=tools, logit_bias={"5": 1}, parallel_tool_calls=False
        )
    [body] = server.bodies
    assert (body["messages"], body["tools"], body["logit_bias"]) == (show, tools, {"5": 1})
    assert body["parallel_tool_calls"] is False
    assert len(hosting.calls(attempt)) == 1
    async with hosting.anthropic(attempt) as other:
        result: Any = {"type": "tool_result", "tool_use_id": "t", "content": "no", "is_error": True}
        told: Any = [{"role": "user", "content": [result, {"type": "text", "text": "hello"}]}]
        await other.messages.create(model="wise", max_tokens=9, messages=told)
        assert server.bodies[-1]["messages"][0] == {"role": "tool", "tool_call_id": "t", "content": "no"}
        begun: Any = [*say("hello"), {"role": "assistant", "content": "{"}]
        await other.messages.create(model="wise", max_tokens=9, messages=begun)
    assert server.bodies[-1]["messages"] == begun


@pytest.mark.parametrize("choice", ["none", "auto", "required"])
async def test_what_a_hosted_model_may_call_is_the_agents_choice_among_tools_of_every_type(
    hosting: House, server: Server, choice: Any
) -> None:
    """The trained model is offered none of these, and a demand for one is refused."""
    attempt = await hosting.attempt()
    search: Any = [{"type": "web_search"}]
    async with hosting.client(attempt) as client:
        asked: Any = {"messages": say("hello"), "tools": search, "tool_choice": choice}
        await client.chat.completions.create(model="wise", **asked)
        if choice == "required":
            with pytest.raises(openai.BadRequestError, match="none of web_search can be offered"):
                await client.chat.completions.create(model="toy", **asked)
        else:
            await client.chat.completions.create(model="toy", **asked)
    [body] = server.bodies
    assert (body["tools"], body["tool_choice"]) == (search, choice)


async def test_a_hosted_model_is_offered_none_but_the_tools_that_are_allowed(
    hosting: House, server: Server
) -> None:
    named: Any = {"type": "function", "function": {"name": "add"}}
    allowed: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}
    async with hosting.client(await hosting.attempt()) as client:
        tools: Any = [*TOOLS, {"type": "web_search"}]
        await client.chat.completions.create(
            model="wise", messages=say("hello"), tools=tools, tool_choice=allowed
        )
    [body] = server.bodies
    assert (body["tools"], body["tool_choice"]) == (TOOLS, "auto")


async def test_a_hosted_models_stream_goes_through_piece_by_piece(hosting: House) -> None:
    attempt = await hosting.attempt()
    async with hosting.client(attempt) as client:
        stream = await client.chat.completions.create(model="wise", messages=say("hello"), stream=True)
        chunks = [chunk async for chunk in stream]
    assert [c.choices[0].delta.content for c in chunks] == ["wi", "se", None]
    assert chunks[-1].choices[0].finish_reason == "stop"
    [span] = hosting.calls(attempt)
    assert span.attributes[semconv.OUTPUT_MESSAGES] == [{"role": "assistant", "content": "wise"}]
    assert span.attributes[semconv.OUTPUT_TOKENS] == 4


async def test_every_api_reaches_the_hosted_model(hosting: House) -> None:
    async with hosting.anthropic(await hosting.attempt()) as client:
        message = await client.messages.create(model="wise", max_tokens=9, messages=say("hello"))
    assert message.content[0].text == "wise"  # type: ignore[union-attr]
    async with hosting.client(await hosting.attempt()) as other:
        with pytest.raises(openai.BadRequestError, match="no raw prompt"):
            await other.completions.create(model="wise", prompt="hello")


@pytest.mark.parametrize(
    ("model", "order", "status", "says"),
    [
        ("wise", "too often", 429, "come back later"),
        ("wise", "nonsense", 502, "no chat completion"),
        ("absent", "hello", 502, "did not answer"),
    ],
)
async def test_a_hosted_models_failure_is_told_as_it_is(
    hosting: House, model: str, order: str, status: int, says: str
) -> None:
    attempt = await hosting.attempt()
    async with hosting.client(attempt) as client:
        with pytest.raises(openai.APIStatusError, match=says) as caught:
            await client.chat.completions.create(model=model, messages=say(order))
    assert caught.value.status_code == status
    assert hosting.calls(attempt) == []


@pytest.mark.parametrize("status", ["429", "503"])
async def test_a_client_that_may_ask_again_does_when_the_hosted_model_said(
    hosting: House, server: Server, status: str
) -> None:
    """Not sooner, and it is one call."""
    attempt = await hosting.attempt()
    async with hosting.client(attempt) as client:
        begun = time.monotonic()
        reply = await client.with_options(max_retries=2).chat.completions.create(
            model="wise", messages=say(status)
        )
    assert reply.choices[0].message.content == "wise"
    assert len(server.bodies) == 2 and time.monotonic() - begun >= 1
    assert [span.id for span in hosting.calls(attempt)] == [reply.id]


async def test_an_agent_that_hangs_up_hangs_up_on_the_hosted_model(hosting: House, server: Server) -> None:
    attempt = await hosting.attempt()
    async with hosting.client(attempt) as client:
        stream = await client.chat.completions.create(model="wise", messages=say("wait"), stream=True)
        async for _ in stream:
            break
        await stream.close()
    async with asyncio.timeout(60):
        await server.hung_up.wait()
        while not hosting.calls(attempt):
            await asyncio.sleep(0.02)
    [span] = hosting.calls(attempt)
    assert span.attributes[semconv.FINISH_REASONS] == ["aborted"]
    assert span.attributes[semconv.OUTPUT_MESSAGES][0]["content"] == "wi"
