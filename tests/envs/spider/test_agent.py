"""The agent's graph, against a real HTTP server that answers by role."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from aiohttp import web

from al_ray.envs.spider import agent
from al_ray.envs.spider.demonstrations import demonstrate, misspelt
from al_ray.envs.spider.reward import score
from al_ray.envs.spider.sql_text import tidy
from al_ray.types import Endpoint, Task
from tests.envs.spider.conftest import HARBOUR

TASK = {
    "question": "How many ships are there?",
    "schema": "ship(id, name)",
    "database": str(HARBOUR),
    "budget": 2048,
    "turns": 3,
    "query": "SELECT count(*) FROM ship",
}
WRONG = "SELECT nom FROM ship"
Replies = Mapping[str, Sequence[str | web.Response]]


@asynccontextmanager
async def served(replies: Replies) -> AsyncIterator[tuple[Endpoint, list[dict[str, Any]]]]:
    """An endpoint that gives each role its replies in turn. What was asked is kept, with role and key."""
    received: list[dict[str, Any]] = []
    waiting = {role: list(each) for role, each in replies.items()}

    async def complete(request: web.Request) -> web.Response:
        role = request.headers["x-al-ray-agent"]
        body = await request.json()
        received.append(body | {"role": role, "key": request.headers["Authorization"]})
        reply = waiting[role].pop(0)
        if isinstance(reply, web.Response):
            return reply
        message = {"role": "assistant", "content": reply}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
        return web.json_response(head | {"choices": [choice]})

    async def take_traces(request: web.Request) -> web.Response:
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_post("/v1/traces", take_traces)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Endpoint(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", "key", "model"), received
    finally:
        await runner.cleanup()


def shown(request: Mapping[str, Any]) -> str:
    """The user's message."""
    return str(request["messages"][1]["content"])


async def test_a_query_that_the_checker_accepts_is_the_answer() -> None:
    """Two calls, by name, to the given model with the given key; the checker sees query and result."""
    replies = {"writer": ["SELECT count(*) FROM ship"], "checker": ["Yes. THE QUERY IS CORRECT"]}
    async with served(replies) as (endpoint, received):
        assert await agent.solve(TASK, endpoint) == "SELECT count(*) FROM ship"
    assert [(each["role"], each["model"], each["key"]) for each in received] == [
        ("writer", "model", "Bearer key"),
        ("checker", "model", "Bearer key"),
    ]
    assert [each["messages"] for each in received] == [
        agent.prompt("writer", TASK),
        agent.prompt("checker", TASK | {"result": "count(*)\n7"}),
    ]


async def test_a_query_is_rewritten_until_the_turns_are_used_up() -> None:
    """The rewriter sees query, error and feedback; the last query is answered without a check."""
    replies = {
        "writer": [WRONG],
        "checker": ["No such column.", "Still wrong."],
        "rewriter": ["```sql\nSELECT 1\n```", "Here:\n```\nSELECT 2\n```\nor\n``` SELECT 3```"],
    }
    async with served(replies) as (endpoint, received):
        assert await agent.solve(TASK, endpoint) == "SELECT 3"
    assert [each["role"] for each in received] == ["writer", "checker", "rewriter", "checker", "rewriter"]
    assert shown(received[2]).endswith(
        f"Query: {WRONG}\nResult: error: no such column: nom\nFeedback: No such column."
    )
    assert "Query: SELECT 1\nResult: 1\n1" in shown(received[3])


@pytest.mark.parametrize(("turns", "roles"), [(1, ["writer"]), (2, ["writer", "checker", "rewriter"])])
async def test_the_task_says_how_many_queries_may_be_written(turns: int, roles: list[str]) -> None:
    """One turn is the writer alone."""
    replies = {"writer": [WRONG], "checker": ["no"], "rewriter": ["SELECT 1"]}
    async with served(replies) as (endpoint, received):
        await agent.solve(TASK | {"turns": turns}, endpoint)
    assert [each["role"] for each in received] == roles


async def test_results_are_cut_to_the_budget() -> None:
    """However much a query gives."""
    query = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x, hex(zeroblob(50)) FROM c"
    )
    async with served({"writer": [query], "checker": [agent.CORRECT]}) as (endpoint, received):
        await agent.solve(TASK | {"budget": 300}, endpoint)
    result = shown(received[1]).split("Result: ")[1]
    assert len(result) <= 300 and result.endswith("\n...")


async def test_where_a_prompt_leaves_no_room_the_query_before_it_is_the_answer() -> None:
    """The checker's silence is no consent, and the rewriter's no query."""
    too_long = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    refused = [web.json_response(too_long, status=400) for _ in range(4)]
    replies = {"writer": ["SELECT 1"], "checker": refused[:2], "rewriter": refused[2:]}
    async with served(replies) as (endpoint, received):
        assert await agent.solve(TASK, endpoint) == "SELECT 1"
    assert len(received) == 5


@pytest.mark.parametrize(
    ("status", "error"), [(400, openai.BadRequestError), (500, openai.InternalServerError)]
)
async def test_a_failed_call_fails_the_agent_and_is_not_repeated(status: int, error: type[Exception]) -> None:
    """Whoever runs the agent sees the error and decides."""
    reply = web.json_response({"error": {"message": "no", "code": None}}, status=status)
    async with served({"writer": [reply]}) as (endpoint, received):
        with pytest.raises(error):
            await agent.solve(TASK, endpoint)
    assert len(received) == 1


@pytest.mark.parametrize("with_rewriter", [False, True])
async def test_a_replayed_agent_with_gold_answers_is_worth_one_on_every_sample(
    sample_tasks: Sequence[Task], with_rewriter: bool
) -> None:
    """Whether the gold query comes at once or after a wrong one."""
    for task in sample_tasks[::7]:
        gold = task.data["query"]
        replies = {"writer": [gold], "checker": [agent.CORRECT]}
        if with_rewriter:
            replies = {
                "writer": ["SELECT"],
                "checker": ["no", agent.CORRECT],
                "rewriter": [f"```sql\n{gold}\n```"],
            }
        async with served(replies) as (endpoint, _):
            assert score(task.data, await agent.solve(task.data, endpoint))["reward"] == 1.0


async def test_demonstrations_are_calls_that_the_agent_makes(sample_tasks: Sequence[Task]) -> None:
    """Where the roles reply as demonstrated, one of them is asked what the demonstration shows."""
    seen = set()
    for task in sample_tasks[:32]:
        shown = demonstrate(task.data)
        *asked, reply = shown.messages
        role = next(role for role, text in agent.SYSTEM.items() if asked[0]["content"] == text)
        assert shown.agent == role
        gold = tidy(task.data["query"])
        is_wrong = "Result: error: " in asked[1]["content"]
        found = asked[1]["content"].partition("Feedback: ")[2] or reply["content"]
        replies = {
            "writer": [misspelt(gold, task.data["schema"]) if is_wrong else gold],
            "checker": [found if is_wrong else agent.CORRECT, agent.CORRECT],
            "rewriter": [gold],
        }
        async with served(replies) as (endpoint, received):
            output = await agent.solve(task.data, endpoint)
        assert score(task.data, output)["reward"] == 1.0
        assert next(each["messages"] for each in received if each["role"] == role) == asked
        assert reply["content"] == {"writer": gold, "checker": replies["checker"][0], "rewriter": gold}[role]
        seen.add((role, is_wrong))
    assert seen == {("writer", False), ("checker", False), ("checker", True), ("rewriter", True)}


def test_a_misspelt_query_differs_in_one_name() -> None:
    """That of the schema, not a keyword or a value."""
    assert misspelt("SELECT count(*) FROM ship WHERE name = 'x'", "ship(id, name)") == (
        "SELECT count(*) FROM ships WHERE name = 'x'"
    )


@pytest.mark.parametrize(
    "reply",
    [
        "```SELECT name FROM singer```",
        "``` SELECT name FROM singer ```",
        "```sql SELECT name FROM singer```",
        "```SQLite\nSELECT name FROM singer\n```",
        "```tsql\nSELECT name FROM singer\n```",
        "Think: ```SELECT 1```. Better:\n```sql\nSELECT name FROM singer\n```\n``` ```",
        "```sql\nSELECT name FROM singer",
        " SELECT name FROM singer\n",
    ],
)
def test_the_query_is_read_whole_however_it_is_fenced(reply: str) -> None:
    assert agent.extract(reply) == "SELECT name FROM singer"


def test_a_query_that_begins_on_the_line_of_its_fence_keeps_its_first_word() -> None:
    assert agent.extract("```SELECT\n  name\nFROM singer\n```") == "SELECT\n  name\nFROM singer"
