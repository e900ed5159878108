"""The agent: a writer, a checker and a rewriter around one database, as a graph of LangGraph.

    writer -> checker -> rewriter -> checker -> ... until the checker is content or the turns are used up

A query is run where it is written, within its author's span: what became of it is told of the call that
wrote it. Nothing here knows of training. ``solve`` is what a recipe names; by hand, on any endpoint::

    OPENAI_BASE_URL=... OPENAI_API_KEY=... OPENAI_MODEL=... \\
        python -m al_ray.envs.spider.agent my.sqlite "How many singers are there?"
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from openai import BadRequestError
from pydantic import SecretStr
from typing_extensions import TypedDict

from al_ray import tracing
from al_ray.envs.spider import execution
from al_ray.envs.spider.data import TURNS
from al_ray.envs.spider.database import BUDGET, Database
from al_ray.envs.spider.execution import QueryError

if TYPE_CHECKING:
    from al_ray.types import Endpoint

MAX_ROWS = 50
"""Of a result."""
CORRECT = "THE QUERY IS CORRECT"

SYSTEM = {
    "writer": "Write one SQLite query that answers the question. Reply with the query alone.",
    "checker": "Does the SQLite query answer the question? "
    f"If it does, reply {CORRECT}. If not, say in one sentence what is wrong.",
    "rewriter": "Correct the SQLite query. Reply with the query alone.",
}
"""By role, which is also the agent's name."""

_FENCED = re.compile(
    r"""``` (?: (?:sql|sqlite3?|mysql|postgres\w*) \b                 # a language, then anything
          | (?! (?:select|with|values) \b ) \w+ (?= [^\S\n]* \n)   # any word, alone on its line
        )? (.*?) (?: ``` | \Z )""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
"""A block with the name of its language or without, on one line or several; the last may never end."""


class Given(TypedDict):
    """What the task gives."""

    question: str
    schema: str
    database: str
    budget: int
    """Characters of the schema and of a result that a call shows, at most."""
    turns: int
    """Queries that are written, at most. The last is not checked: nobody would act on it."""


class State(Given, total=False):
    """... and what the roles add to it."""

    query: str
    result: str
    feedback: str
    written: int
    """Queries, so far."""


async def solve(task: Mapping[str, Any], llm: Endpoint) -> str:
    """The last query. A failed call is not repeated here: whoever runs the agent does that."""
    model = ChatOpenAI(
        base_url=llm.base_url, api_key=SecretStr(llm.api_key), model=llm.model, timeout=600, max_retries=0
    )
    async with tracing.attempt(llm):
        return await converse(model, {key: task[key] for key in Given.__annotations__})


async def converse(model: ChatOpenAI, asked: Mapping[str, Any]) -> str:
    """The last query that the roles write."""
    end = await GRAPH.ainvoke(asked, context=model)
    return end["query"]


async def write(state: State, runtime: Runtime[ChatOpenAI]) -> dict[str, Any]:
    with tracing.agent("writer"):
        reply = await ask(runtime.context, "writer", state)
        return await _executed(state, extract(reply))


async def check(state: State, runtime: Runtime[ChatOpenAI]) -> dict[str, Any]:
    with tracing.agent("checker"):
        return {"feedback": await ask(runtime.context, "checker", state)}


async def rewrite(state: State, runtime: Runtime[ChatOpenAI]) -> dict[str, Any]:
    with tracing.agent("rewriter"):
        reply = await ask(runtime.context, "rewriter", state)
        return await _executed(state, extract(reply) or state["query"])


def after_query(state: State) -> str:
    return "checker" if state["written"] < state["turns"] else END


def after_check(state: State) -> str:
    return END if CORRECT in state["feedback"] else "rewriter"


async def ask(model: ChatOpenAI, role: str, state: Mapping[str, Any]) -> str:
    """What the role replies; nothing, where the prompt leaves it no room."""
    headers = {"x-al-ray-agent": role, **tracing.headers()}
    try:
        reply = await model.ainvoke(prompt(role, state), extra_headers=headers)
    except BadRequestError as error:
        if error.code != "context_length_exceeded":
            raise
        return ""
    return reply.text


def prompt(role: str, state: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages of a role's call: each sees all that is known so far."""
    parts = [state["schema"], f"Question: {state['question']}"]
    if role != "writer":
        parts += [f"Query: {state['query']}", f"Result: {state['result']}"]
    if role == "rewriter":
        parts.append(f"Feedback: {state['feedback']}")
    return [{"role": "system", "content": SYSTEM[role]}, {"role": "user", "content": "\n".join(parts)}]


def extract(reply: str) -> str:
    """The query in a reply: its last fenced block, else all of it."""
    fenced = [block.strip() for block in _FENCED.findall(reply) if block.strip()]
    return fenced[-1] if fenced else reply.strip()


@tracing.tool
async def execute(database: str, query: str, budget: int) -> str:
    """``look`` in a thread: a query may take seconds."""
    return await asyncio.to_thread(look, database, query, budget)


def look(database: str, query: str, budget: int) -> str:
    """What the query gives, as the roles are shown it; a mistake in it is told to them."""
    try:
        table = execution.run(Path(database), query, MAX_ROWS)
    except QueryError as error:
        return f"error: {error}"[:budget]
    return execution.show(table, budget)


async def _executed(state: State, query: str) -> dict[str, Any]:
    result = await execute(state["database"], query, state["budget"])
    return {"query": query, "result": result, "written": state.get("written", 0) + 1}


def _graph() -> Any:
    graph = StateGraph(State, context_schema=ChatOpenAI)
    graph.add_node("writer", write)
    graph.add_node("checker", check)
    graph.add_node("rewriter", rewrite)
    graph.add_edge(START, "writer")
    graph.add_conditional_edges("writer", after_query, ["checker", END])
    graph.add_conditional_edges("checker", after_check, ["rewriter", END])
    graph.add_conditional_edges("rewriter", after_query, ["checker", END])
    return graph.compile(name="spider")


GRAPH = _graph()
"""Compiled once; each run brings its own model."""


async def _main(file: str, question: str) -> None:
    model = ChatOpenAI(model=os.environ["OPENAI_MODEL"])
    schema = Database(Path(file)).schema_within(BUDGET)
    asked = Given(question=question, schema=schema, database=file, budget=BUDGET, turns=TURNS)
    print(await converse(model, asked))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
