"""The agent, against real HTTP servers in place of the model and of the retrieval service."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from agents.tool_context import ToolContext
from aiohttp import ClientResponseError, web

from al_ray.envs.musique import agent, data, scoring, search
from al_ray.envs.musique.demonstrations import demonstrate
from al_ray.rollouts.blame import AROUND_THE_AGENT
from al_ray.types import Endpoint
from tests.envs.musique.served import Message, call, model, say, server

PARAGRAPHS = [
    {"id": 0, "title": "Eldford", "text": "Eldford is a town in Northmoor County."},
    {"id": 1, "title": "Ada Penrose", "text": "Ada Penrose was born in Eldford. She sold clocks."},
    {"id": 2, "title": "Kite", "text": "A kite flies."},
]
TASK = {"question": "Which county?", "paragraphs": PARAGRAPHS, "top_k": 2, "passage_chars": 40}
ANSWER = "<think>Eldford, Northmoor</think><answer>Northmoor</answer>"


def endpoint(url: str, **services: str) -> Endpoint:
    return Endpoint(url, "key", "model", services)


async def test_it_searches_the_paragraphs_of_its_task_and_answers() -> None:
    """The second request carries what was found, cut; what was found is returned with the last message."""
    async with model([call('{"query": "Ada Penrose"}'), say(ANSWER)]) as (url, received):
        output = await agent.solve(TASK, endpoint(url))
    assert output == {"text": ANSWER, "searches": [{"query": "Ada Penrose", "found": [1]}]}
    shown = received[1]["messages"][-1]
    assert (shown["role"], shown["tool_call_id"]) == ("tool", "call_0")
    assert shown["content"] == "Ada Penrose: Ada Penrose was born in Eldford. She ..."
    assert received[0]["messages"][0]["content"] == agent.INSTRUCTIONS


async def test_it_asks_the_service_where_the_task_brings_no_paragraphs() -> None:
    asked = []

    async def retrieve(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.json_response({"passages": PARAGRAPHS[:1]})

    task = {"question": "Which county?", "top_k": 1, "passage_chars": 100}
    replies = [call('{"query": "Eldford"}'), say(ANSWER)]
    async with model(replies) as (url, received), server(("/", retrieve)) as service:
        output = await agent.solve(task, endpoint(url, retrieval=service))
    assert asked == [{"query": "Eldford", "k": 1}] and output["searches"][0]["found"] == [0]
    assert received[1]["messages"][-1]["content"] == "Eldford: Eldford is a town in Northmoor County."


@pytest.mark.parametrize(
    "arguments", ['{"query": 6}', '{"query": ["x"]}', '{"query": " "}', '{"q": "x"}', '"x"', "{query", "[]"]
)
async def test_a_mistaken_call_is_told_to_the_model_as_an_error(arguments: str) -> None:
    async with model([call(arguments), say(ANSWER)]) as (url, received):
        assert (await agent.solve(TASK, endpoint(url)))["searches"] == []
    assert received[1]["messages"][-1]["content"] == 'error: the arguments must be {"query": "..."}'


@pytest.mark.parametrize(
    "arguments",
    ["[" * 1000, '{"query": "kite", "x": ' + "[" * 900 + "]" * 900 + "}", r'{"query": "\ud83d"}'],
    ids=["never closed", "nested", "half a character"],
)
async def test_who_calls_with_what_the_sdk_cannot_read_has_no_answer(arguments: str) -> None:
    """It raises before the tool could tell of it: the attempt is worth nothing, but it has not failed."""
    async with model([call('{"query": "kite"}'), call(arguments)]) as (url, _):
        output = await agent.solve(TASK, endpoint(url))
    assert output == {"text": "", "searches": [{"query": "kite", "found": [2]}]}


async def test_arguments_that_nest_too_deeply_for_the_tool_alone_are_told() -> None:
    """It may stand deeper in the stack than the SDK did when it read them."""
    context = ToolContext(None, tool_name="search", tool_call_id="c", tool_arguments="")
    told = await agent.search_tool().on_invoke_tool(context, "[" * 1000)
    assert told == 'error: the arguments must be {"query": "..."}'


async def test_a_search_that_finds_nothing_says_so() -> None:
    async with model([call('{"query": "zebra"}'), say(ANSWER)]) as (url, received):
        await agent.solve(TASK, endpoint(url))
    assert received[1]["messages"][-1]["content"] == "no passages found"


@pytest.mark.parametrize("replies", [[call('{"query": "kite"}')], [call('{"query": "kite"}'), 400]])
async def test_who_only_searches_has_no_answer(replies: list[Message | int]) -> None:
    """Until the bound, or until there is no room: the attempt is worth nothing, but it has not failed."""
    async with model(replies) as (url, received):
        output = await agent.solve(TASK, endpoint(url))
    assert output["text"] == "" and output["searches"]
    assert len(received) == (agent.MAX_CALLS if len(replies) == 1 else 2)


async def test_a_failed_call_fails_the_agent_and_is_not_repeated() -> None:
    async with model([500]) as (url, received):
        with pytest.raises(openai.InternalServerError):
            await agent.solve(TASK, endpoint(url))
    assert len(received) == 1


async def test_a_service_that_is_away_for_a_while_is_waited_for() -> None:
    """As it is while it is started anew, at the same URL."""
    async with server() as url:
        pass
    searching = asyncio.create_task(search.ServiceSearch(url)("q", 1))
    await asyncio.sleep(0.2)
    app = web.Application()
    app.router.add_post("/", _nothing)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(url.rsplit(":", 1)[1])).start()
    assert await searching == []
    await runner.cleanup()


async def _nothing(request: web.Request) -> web.Response:
    return web.json_response({"passages": []})


async def _failed(request: web.Request) -> web.Response:
    return web.Response(status=503)


async def _cut(request: web.Request) -> web.StreamResponse:
    """Half of an answer, and then no connection."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "100"})
    await response.prepare(request)
    await response.write(b'{"passages": [')
    assert request.transport is not None
    request.transport.close()
    return response


@pytest.mark.parametrize("failed", [_failed, _cut])
async def test_a_service_that_fails_for_a_while_is_asked_again(failed: Any) -> None:
    times = iter([failed, failed])

    async def retrieve(request: web.Request) -> web.StreamResponse:
        return await next(times, _nothing)(request)

    async with server(("/", retrieve)) as url:
        assert await search.ServiceSearch(url)("q", 1) == []
    assert list(times) == []


@pytest.mark.parametrize("failed", [_failed, _cut])
async def test_a_service_that_goes_on_failing_fails_the_agent_and_not_the_model(
    monkeypatch: pytest.MonkeyPatch, failed: Any
) -> None:
    """It is never an empty result, from which the model would learn."""
    monkeypatch.setattr(search, "PATIENCE", 0.1)
    async with server(("/", failed)) as url:
        with pytest.raises(ConnectionError, match="retrieval at") as raised:
            await search.ServiceSearch(url)("q", 1)
    assert type(raised.value).__name__ in AROUND_THE_AGENT


@pytest.mark.parametrize("host", ["127.0.0.1:9", "nowhere.invalid"])
async def test_a_service_that_stays_away_fails_the_agent_and_not_the_model(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(search, "PATIENCE", 0.1)
    with pytest.raises(ConnectionError, match="retrieval at") as raised:
        await search.ServiceSearch(f"http://{host}")("q", 1)
    assert type(raised.value).__name__ in AROUND_THE_AGENT


async def test_what_a_service_refuses_is_not_asked_again() -> None:
    async with server() as url:
        with pytest.raises(ClientResponseError, match="404"):
            await search.ServiceSearch(url)("q", 1)


@pytest.mark.parametrize("split", ["train", "validation"])
async def test_a_replayed_agent_with_gold_answers_scores_one(rows_path: str | None, split: str) -> None:
    """With real searches in the 20 paragraphs, on the first 20 rows of each file."""
    for task in data.load(rows_path, split, setting="paragraphs").tasks[:20]:
        replies = [m for m in demonstrate(task.data).messages if m["role"] == "assistant"]
        async with model(replies) as (url, _):
            output = await agent.solve(task.data, endpoint(url))
        metrics = scoring.score(task.data, output)
        assert metrics["em"] == metrics["f1"] == metrics["format"] == 1
        assert len(output["searches"]) == task.data["hops"]


async def test_a_demonstration_is_what_the_agent_sends_when_model_and_service_are_perfect() -> None:
    """Given the demonstration's messages and passages, the agent builds the demonstration."""
    for task in data.load(None, "train").tasks[:8]:
        shown = demonstrate(task.data)
        steps = {step["query"]: step for step in task.data["steps"]}

        async def retrieve(request: web.Request, steps: dict[str, Any] = steps) -> web.Response:
            return web.json_response({"passages": [steps[(await request.json())["query"]]]})

        replies = [m for m in shown.messages if m["role"] == "assistant"]
        async with model(replies) as (url, received), server(("/", retrieve)) as service:
            output = await agent.solve(task.data, endpoint(url, retrieval=service))
        assert output["text"] == shown.messages[-1]["content"]
        assert received[-1]["tools"] == shown.tools
        assert _plain(received[-1]["messages"]) == _plain(shown.messages[:-1])


def _plain(messages: Any) -> Any:
    """Without what clients write in ways of their own: no content, or an empty one."""
    return [{key: value for key, value in json.loads(json.dumps(m)).items() if value} for m in messages]
