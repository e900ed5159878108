"""A decision process that is small enough to be solved: an agent that is told left or right three times, an
engine that says either with a known probability, and what each path is worth.

A task may have ``habits`` that make the agent hard to repeat.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Final

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from al_ray.actors.line import OnLine
from al_ray.types import ChatReply, ChatRequest, Choice, Endpoint, Task, VersionSpan

DEPTH: Final = 3
SAYS: Final = ("left", "right")
Path = tuple[int, ...]
"""0 for each left, 1 for each right."""

_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Needed by nobody, and made by every client that is given none: 30 ms of computing."""
_seen = Counter[str]()
"""How often each task was played, in this process."""


def right(path: Path) -> float:
    """The probability that the engine says right after a path."""
    if not path:
        return 0.5
    return {(0,): 0.25, (1,): 0.75}.get(path, 0.4 if path[-1] else 0.6)


def worth(path: Path) -> float:
    """The reward of a whole path."""
    return {(0, 0, 0): 0.0, (0, 1, 1): 0.5, (1, 1, 1): 2.0, (1, 0, 0): -1.0}.get(path, 1.0 * path[-1])


def moments(path: Path) -> tuple[float, float]:
    """The mean of the rewards after a path, and of their squares."""
    if len(path) == DEPTH:
        return worth(path), worth(path) ** 2
    shares = (1 - right(path), right(path))
    ahead = [moments((*path, step)) for step in (0, 1)]
    mean, square = (
        sum(share * told[moment] for share, told in zip(shares, ahead, strict=True)) for moment in (0, 1)
    )
    return mean, square


def value(path: Path) -> float:
    return moments(path)[0]


def deviation(path: Path) -> float:
    mean, square = moments(path)
    return sqrt(max(square - mean * mean, 0.0))


async def solve(task: Mapping[str, Any], llm: Endpoint) -> Sequence[str]:
    """The path that it was told."""
    habits = task.get("habits", ())
    _seen[task["name"]] += 1
    again = _seen[task["name"]] > 1
    if "gives up" in habits and again:
        return ["left"] * DEPTH
    if "breaks" in habits and again:
        raise LookupError("it does not work twice")
    http_client = DefaultAsyncHttpxClient(verify=_TLS)
    async with AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key, http_client=http_client) as client:
        if "side by side" in habits:
            questions = [[{"role": "user", "content": f"{task['name']}, part {part}"}] for part in (0, 1)]
            told = await asyncio.gather(*(_ask(client, llm, question) for question in questions))
            return [*told, await _ask(client, llm, [{"role": "user", "content": " ".join(told)}])]
        messages: list[Any] = [{"role": "user", "content": task["name"]}]
        for step in range(DEPTH):
            if "tells the time" in habits and step == 1:
                messages[-1]["content"] += f" at {time.time_ns()}"
            said = await _ask(client, llm, messages)
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "and now?"}]
    return [message["content"] for message in messages if message["role"] == "assistant"]


async def _ask(client: AsyncOpenAI, llm: Endpoint, messages: Any) -> str:
    reply = await client.chat.completions.create(model=llm.model, messages=messages)
    return str(reply.choices[0].message.content)


def score(task: Mapping[str, Any], output: Sequence[str]) -> float:
    return worth(tuple(map(SAYS.index, output)))


def task(name: str, *habits: str) -> Task:
    return Task(name, {"name": name, "habits": list(habits)})


class TreeEngine(OnLine):
    """Says left or right, by the path that the conversation tells; to be made an actor."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._calls = 0

    async def chat(self, request: ChatRequest) -> ChatReply:
        self._calls += 1
        said = [message["content"] for message in request.messages if message["role"] == "assistant"]
        step = int(self._random.random() < right(tuple(map(SAYS.index, said))))
        message = {"role": "assistant", "content": SAYS[step]}
        choice = Choice(0, message, "stop", [step], [-1.0], [VersionSpan(1, 0, 1)])
        return ChatReply([len(said)], [choice])

    async def remember(self, request: ChatRequest, reply: ChatReply) -> None:
        """Nothing is continued here."""

    async def calls(self) -> int:
        """That it was asked."""
        return self._calls
