"""The agent: think, search, answer; on the OpenAI Agents SDK, with one tool.

It knows nothing of training. ``solve`` is what a recipe names; by hand, against any endpoint, with the
retrieval service of ``AL_RAY_SERVICE_RETRIEVAL_URL`` or else with the sample corpus::

    OPENAI_BASE_URL=... OPENAI_API_KEY=... OPENAI_MODEL=... \\
        python -m al_ray.envs.musique.agent "In which county was the founder of Brightwell Glass born?"
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agents import (
    Agent,
    FunctionTool,
    MaxTurnsExceeded,
    ModelBehaviorError,
    OpenAIChatCompletionsModel,
    RunConfig,
    RunContextWrapper,
    Runner,
)
from openai import AsyncOpenAI, BadRequestError

from al_ray.envs.client import open_client
from al_ray.envs.musique import data
from al_ray.envs.musique.search import ParagraphSearch, Search, ServiceSearch

if TYPE_CHECKING:
    from al_ray.types import Endpoint

MAX_CALLS = 8
"""Calls of the model, at most: four hops, an answer, and some searches that fail."""

INSTRUCTIONS = (
    "Search until you know. End with <think>what you found</think><answer>the short answer</answer>"
)

MAX_QUERY_CHARS = 400

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"query": {"type": "string"}},
    "required": ["query"],
    "additionalProperties": False,
}


@dataclass(slots=True)
class Episode:
    """What the tool needs to know, and what it has done."""

    search: Search
    top_k: int
    passage_chars: int
    searches: list[dict[str, Any]] = field(default_factory=list)


async def solve(task: Mapping[str, Any], llm: Endpoint) -> dict[str, Any]:
    """``text``, the model's last message, and ``searches``: each query with the ids of what it found."""
    search: Search
    if "paragraphs" in task:
        search = ParagraphSearch(task["paragraphs"])
    else:
        search = ServiceSearch(llm.services["retrieval"])
    episode = Episode(search, task["top_k"], task["passage_chars"])
    async with open_client(llm) as client:
        text = await converse(client, llm.model, task["question"], episode)
    return {"text": text, "searches": episode.searches}


async def converse(client: AsyncOpenAI, model: str, question: str, episode: Episode) -> str:
    """The model's last message; nothing where it did not come to one."""
    agent = Agent[Episode](
        name="searcher",
        instructions=INSTRUCTIONS,
        tools=[search_tool()],
        model=OpenAIChatCompletionsModel(model, client),
    )
    quietly = RunConfig(tracing_disabled=True)  # else the SDK sends its traces to OpenAI
    try:
        run = await Runner.run(agent, question, context=episode, max_turns=MAX_CALLS, run_config=quietly)
    except (MaxTurnsExceeded, ModelBehaviorError):  # it only searched, or called what there is not
        return ""
    except (RecursionError, UnicodeEncodeError):  # the SDK could not read its arguments
        return ""
    except BadRequestError as error:
        if error.code != "context_length_exceeded":
            raise
        return ""  # it searched until there was no room for an answer
    return str(run.final_output)


def search_tool() -> FunctionTool:
    return FunctionTool("search", "", PARAMETERS, _run_tool)


async def _run_tool(context: RunContextWrapper[Episode], arguments: str) -> str:
    """What the model is shown; a mistake in the call is told to it, and it may try again."""
    try:
        query = json.loads(arguments)["query"]
    except (ValueError, TypeError, KeyError, RecursionError):
        query = None
    if not isinstance(query, str) or not query.strip():
        return 'error: the arguments must be {"query": "..."}'
    episode = context.context
    found = await episode.search(query[:MAX_QUERY_CHARS], episode.top_k)
    episode.searches.append({"query": query, "found": [passage["id"] for passage in found]})
    return shown(found, episode.passage_chars)


def shown(passages: Any, chars: int) -> str:
    """Passages as the model sees them."""
    lines = [f"{passage['title']}: {data.cut(passage['text'], chars)}" for passage in passages]
    return "\n".join(lines) or "no passages found"


async def _main(question: str) -> None:
    url = os.environ.get("AL_RAY_SERVICE_RETRIEVAL_URL")
    episode = Episode(ServiceSearch(url) if url else _sample_search(), top_k=3, passage_chars=1000)
    async with AsyncOpenAI() as client:
        print(await converse(client, os.environ["OPENAI_MODEL"], question, episode))
    for search in episode.searches:
        print(f"searched {search['query']!r}, found {search['found']}")


def _sample_search() -> Search:
    lines = data.corpus(None).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return ParagraphSearch([{"id": row["pid"], "title": row["title"], "text": row["text"]} for row in rows])


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
