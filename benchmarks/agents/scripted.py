"""The soak's agent and its engine, whose every word is a function of what was said before.

So what a rollout must have said, heard and earned is known from its task alone (``expected``), and
nothing that is lost, doubled or mixed up goes unseen.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from openai import AsyncOpenAI

from al_ray.actors.line import OnLine
from al_ray.types import ChatDelta, ChatReply, Choice, Endpoint, ModelRequest, VersionSpan

LOG_VARIABLE = "AL_RAY_SOAK_LOG"
"""Names the file to which agents write what they were told."""
THINK_SECONDS = 0.1
"""What an engine takes over a call, at most."""


@dataclass(frozen=True)
class Expected:
    """What a task's rollout says, hears and earns."""

    questions: Sequence[str]
    answers: Sequence[str]
    step_reward: float
    """For the first call, posted while the agent runs."""
    reward: float
    """What the agent returns."""


def expected(task: Mapping[str, Any]) -> Expected:
    questions: list[str] = []
    answers: list[str] = []
    for number in range(task["calls"]):
        questions.append(question(task, number, answers))
        answers.append(answer(questions[-1]))
    return Expected(questions, answers, earned(answers[:1]), earned(answers))


def question(task: Mapping[str, Any], number: int, answers: Sequence[str]) -> str:
    return f"Question {number} of {task['name']}, after {' '.join(answers) or 'nothing'}"


def answer(asked: str) -> str:
    return hashlib.sha256(asked.encode()).hexdigest()[:24]


def earned(answers: Sequence[str]) -> float:
    return int(hashlib.sha256(" ".join(answers).encode()).hexdigest()[:8], 16) / 2**32


class ScriptedEngine(OnLine):
    """Answers the last question; tokens are bytes."""

    async def chat(self, request: ModelRequest) -> ChatReply:
        await asyncio.sleep(random.uniform(0, THINK_SECONDS))
        said = list(request.messages)  # type: ignore[union-attr]
        text = answer(said[-1]["content"])
        tokens = list(text.encode())
        choice = Choice(
            index=0,
            message={"role": "assistant", "content": text},
            finish_reason="stop",
            response_ids=tokens,
            logprobs=[-0.5] * len(tokens),
            versions=[VersionSpan(1, 0, len(tokens))],
        )
        return ChatReply(prompt_ids([message["content"] for message in said]), [choice])

    async def stream(self, request: ModelRequest) -> AsyncIterator[ChatDelta | ChatReply]:
        reply = await self.chat(request)
        text = str(reply.choices[0].message["content"])
        for begin in range(0, len(text), 8):
            yield ChatDelta(0, {"content": text[begin : begin + 8]}, 8)
            await asyncio.sleep(random.uniform(0, THINK_SECONDS / 3))
        yield reply


def prompt_ids(contents: Sequence[str]) -> list[int]:
    return list(json.dumps(list(contents)).encode())


async def act(task: Mapping[str, Any], llm: Endpoint) -> float:
    """A conversation, every third call of it streamed, with a reward posted after the first call."""
    client = _client().with_options(base_url=llm.base_url, api_key=llm.api_key)
    messages: list[Any] = []
    answers: list[str] = []
    for number in range(task["calls"]):
        messages.append({"role": "user", "content": question(task, number, answers)})
        call, text = await (_streamed if number % 3 == 2 else _asked)(client, messages)
        _note(llm.api_key, call, text)
        messages.append({"role": "assistant", "content": text})
        answers.append(text)
        if number == 0:
            report = {"value": earned(answers), "call": call, "id": "first"}
            told: Any = await client.post("/al_ray/rewards", cast_to=object, body=report)
            _note(llm.api_key, told["id"], "")
    return earned(answers)


@cache
def _client() -> AsyncOpenAI:
    """As its users have it: two retries, shared by all agents of a runner."""
    return AsyncOpenAI(base_url="http://nowhere", api_key="none")


async def _asked(client: AsyncOpenAI, messages: list[Any]) -> tuple[str, str]:
    reply = await client.chat.completions.create(model="soak", messages=messages)
    return reply.id, reply.choices[0].message.content or ""


async def _streamed(client: AsyncOpenAI, messages: list[Any]) -> tuple[str, str]:
    call, text, ended = "", "", False
    async for chunk in await client.chat.completions.create(model="soak", messages=messages, stream=True):
        call = chunk.id
        for choice in chunk.choices:
            text += choice.delta.content or ""
            ended = ended or choice.finish_reason is not None
    if not ended:
        raise ConnectionError("the stream ended before its answer did")
    return call, text


def _note(*words: str) -> None:
    """One write to the end of the file: it outlives this process, whole."""
    file = os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{' '.join(words)}\n".encode())
    os.close(file)
