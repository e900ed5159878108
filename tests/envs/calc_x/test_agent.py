"""The agent's loop, against a real HTTP server that answers with prepared messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from aiohttp import web

from al_ray.envs.calc_x import agent, data
from al_ray.envs.calc_x.demonstrations import demonstrate
from al_ray.types import Endpoint, Task

Message = Mapping[str, Any]
TASK = {"question": "What is 6 times 7?"}


def call(arguments: str, name: str = "calculator", call_id: str = "call_0") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}]}


def say(content: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@asynccontextmanager
async def served(replies: Sequence[Message | int]) -> AsyncIterator[tuple[Endpoint, list[dict[str, Any]]]]:
    """An endpoint that gives these replies in turn, the last one for ever; a number is a status."""
    received: list[dict[str, Any]] = []

    async def complete(request: web.Request) -> web.Response:
        received.append(await request.json() | {"key": request.headers["Authorization"]})
        reply = replies[min(len(received), len(replies)) - 1]
        if isinstance(reply, int):
            return web.json_response({"error": {"message": "no"}}, status=reply)
        choice = {"index": 0, "message": reply, "finish_reason": "stop"}
        head = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
        return web.json_response(head | {"choices": [choice]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield Endpoint(f"http://127.0.0.1:{port}/v1", "key", "model"), received
    finally:
        await runner.cleanup()


async def test_a_tool_call_is_answered_by_the_calculator_and_the_last_message_returned() -> None:
    """Call, result, answer: the second request carries both, to the given model with the given key."""
    async with served([call('{"expression": "6*7"}'), say("### 42 ###")]) as (endpoint, received):
        assert await agent.solve(TASK, endpoint) == "### 42 ###"
    assert [request["model"] for request in received] == ["model", "model"]
    assert received[0]["key"] == "Bearer key" and received[0]["tools"] == [agent.CALCULATOR]
    asked = [{"role": "system", "content": agent.SYSTEM}, {"role": "user", "content": TASK["question"]}]
    assert received[0]["messages"] == asked
    answered = {"role": "tool", "tool_call_id": "call_0", "content": "42"}
    assert received[1]["messages"] == [*asked, call('{"expression": "6*7"}'), answered]


async def test_an_answer_without_a_call_ends_at_once() -> None:
    """A model that needs no calculator, or says nothing, is called once."""
    for content in ("### 42 ###", None):
        async with served([say(content)]) as (endpoint, received):
            assert await agent.solve(TASK, endpoint) == (content or "")
        assert len(received) == 1


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (call('{"expression": "6 apples"}'), "error: unexpected 'apples'"),
        (call('{"expression": "6/0"}'), "error: division by zero"),
        (call('{"expression": 6}'), 'error: the arguments must be {"expression": "..."}'),
        (call('{"formula": "6*7"}'), 'error: the arguments must be {"expression": "..."}'),
        (call('{"expression": ["2*3"]}'), 'error: the arguments must be {"expression": "..."}'),
        (call("[" * 100_000), 'error: the arguments must be {"expression": "..."}'),
        (call('"6*7"'), 'error: the arguments must be {"expression": "..."}'),
        (call("{6*7"), 'error: the arguments must be {"expression": "..."}'),
        (call("{}", name="search"), "error: no tool 'search'"),
    ],
)
async def test_a_mistaken_call_is_told_to_the_model(mistake: Message, told: str) -> None:
    """The model reads what was wrong as the tool's result and goes on."""
    async with served([mistake, say("### 42 ###")]) as (endpoint, received):
        assert await agent.solve(TASK, endpoint) == "### 42 ###"
    assert received[1]["messages"][-1] == {"role": "tool", "tool_call_id": "call_0", "content": told}


async def test_several_calls_in_a_message_are_all_answered() -> None:
    """In order, each under its own id."""
    both = call('{"expression": "6*7"}', call_id="a")
    both["tool_calls"] += call('{"expression": "1+1"}', call_id="b")["tool_calls"]
    async with served([both, say("done")]) as (endpoint, received):
        await agent.solve(TASK, endpoint)
    results = [(m["tool_call_id"], m["content"]) for m in received[1]["messages"] if m["role"] == "tool"]
    assert results == [("a", "42"), ("b", "2")]


async def test_a_model_that_never_answers_is_left_after_the_bound() -> None:
    """The loop ends without an answer."""
    async with served([call('{"expression": "6*7"}')]) as (endpoint, received):
        assert await agent.solve(TASK, endpoint) == ""
    assert len(received) == agent.MAX_CALLS


async def test_a_failed_call_fails_the_agent_and_is_not_repeated() -> None:
    """Whoever runs the agent sees the error and decides."""
    async with served([500]) as (endpoint, received):
        with pytest.raises(openai.InternalServerError):
            await agent.solve(TASK, endpoint)
    assert len(received) == 1


@pytest.mark.parametrize("task", data.load(None, "train").tasks[16:28], ids=lambda task: task.id)
async def test_a_demonstration_is_what_the_agent_sends_when_the_model_is_perfect(task: Task) -> None:
    """Given the demonstration's assistant messages, the agent builds the demonstration."""
    shown = demonstrate(task.data)
    replies = [message for message in shown.messages if message["role"] == "assistant"]
    async with served(replies) as (endpoint, received):
        assert await agent.solve(task.data, endpoint) == shown.messages[-1]["content"]
    assert received[-1]["messages"] == shown.messages[:-1]
    assert received[-1]["tools"] == shown.tools
