"""The agent: a model, a calculator and a loop, on nothing but the ``openai`` client.

It knows nothing of training. ``solve`` is what a recipe names; by hand, against any endpoint::

    OPENAI_BASE_URL=... OPENAI_API_KEY=... OPENAI_MODEL=... \\
        python -m al_ray.envs.calc_x.agent "A pen costs 3 dollars. What do 4 pens cost?"
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI, BadRequestError

from al_ray.envs.calc_x.calculator import answer
from al_ray.envs.client import open_client

if TYPE_CHECKING:
    from al_ray.types import Endpoint

MAX_CALLS = 10
"""Calls of the model, at most: the longest chains of the data have nine calculations."""

SYSTEM = "Solve with the tool. End with ### answer ###"
"""``### 51 ###`` is 5 tokens of SmolLM2; Agent Lightning's ``### ANSWER: 51 ###`` is 9."""

CALCULATOR: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculator",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}
_WRONG_ARGUMENTS = 'error: the arguments must be {"expression": "..."}'


async def solve(task: Mapping[str, Any], llm: Endpoint) -> str:
    """The model's last message."""
    async with open_client(llm) as client:
        return await converse(client, llm.model, task["question"])


async def converse(client: AsyncOpenAI, model: str, question: str) -> str:
    """Call the model, and the calculator for it, until it answers or ``MAX_CALLS`` is reached."""
    messages = opening(question)
    for _ in range(MAX_CALLS):
        try:
            reply: Any = await client.chat.completions.create(
                model=model,
                messages=messages,  # type: ignore[arg-type]  # plain dicts read better than ten TypedDicts
                tools=[CALCULATOR],  # type: ignore[list-item]
            )
        except BadRequestError as error:
            if error.code != "context_length_exceeded":
                raise
            return ""  # it calculated until there was no room for an answer
        message = reply.choices[0].message
        if not message.tool_calls:
            break
        messages.append(message.model_dump(exclude_none=True))
        messages += [
            tool_message(call.id, call.function.name, call.function.arguments) for call in message.tool_calls
        ]
    return message.content or ""


def opening(question: str) -> list[dict[str, Any]]:
    """The messages of the first call."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def tool_message(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """The answer to one tool call; a mistake in it is told to the model, which may try again."""
    return {"role": "tool", "tool_call_id": call_id, "content": _run_tool(name, arguments)}


def _run_tool(name: str, arguments: str) -> str:
    if name != "calculator":
        return f"error: no tool {name!r}"
    try:
        expression = json.loads(arguments)["expression"]
    except (ValueError, TypeError, KeyError, RecursionError):
        expression = None
    return answer(expression) if isinstance(expression, str) else _WRONG_ARGUMENTS


async def _main(question: str) -> None:
    async with AsyncOpenAI() as client:
        print(await converse(client, os.environ["OPENAI_MODEL"], question))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
