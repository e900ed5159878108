"""Clients that others write, each a program in an environment of its own, at a real gateway.

A program (``client_programs``) asks for a plain answer, a stream, a tool call whose result it sends back, an
object of a schema, and for a prompt that is too long, which none asks twice, though each may; it prints one
line of JSON, what its client made of it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import ray

from al_ray.types import JSON, ChatRequest, Choice, SpanKind
from tests.support.agents.client_environments import node_environment, python_environment
from tests.support.houses.gateway import House
from tests.support.models.fake_engine import FakeEngine

pytestmark = pytest.mark.slow

PROGRAMS = Path(__file__).parent / "client_programs"


@dataclass(frozen=True)
class Client:
    program: str
    packages: tuple[str, ...]
    error: tuple[JSON, ...]
    """What it says of the prompt that is too long."""
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join([Path(self.program).stem, *self.arguments])

    def command(self, folder: Path) -> list[str]:
        """Makes its environment where it is not. A module of Node finds its packages by its own place."""
        if self.program.endswith(".mjs"):
            program = folder / self.program
            shutil.copy(PROGRAMS / self.program, program)
            (folder / "node_modules").symlink_to(node_environment("node", self.packages) / "node_modules")
            return ["node", str(program), *self.arguments]
        venv = python_environment(Path(self.program).stem, self.packages)
        return [str(venv / "bin" / "python"), str(PROGRAMS / self.program), *self.arguments]


NODE = ("openai@6.49.0", "@anthropic-ai/sdk@1.14.0")
VERCEL = ("ai@6.0.326", "@ai-sdk/openai@3.0.141", "@ai-sdk/anthropic@3.0.140", "zod@4.6.7")
PYDANTIC_AI = ("pydantic-ai-slim[openai]==2.68.0",)
TOO_LONG = "context_length_exceeded"
CLIENTS = [
    Client("openai_node.mjs", NODE, ("BadRequestError", 400, TOO_LONG)),
    Client("openai_responses_node.mjs", NODE, ("BadRequestError", 400, TOO_LONG)),
    Client("anthropic_node.mjs", NODE, ("BadRequestError", 400, "invalid_request_error")),
    Client("vercel_ai.mjs", VERCEL, ("AI_APICallError", 400, TOO_LONG), ("chat",)),
    Client("vercel_ai.mjs", VERCEL, ("AI_APICallError", 400, TOO_LONG), ("responses",)),
    Client("vercel_ai.mjs", VERCEL, ("AI_APICallError", 400, "invalid_request_error"), ("anthropic",)),
    Client("smolagents_client.py", ("smolagents[openai]==1.26.0",), ("BadRequestError", 400, TOO_LONG)),
    Client(
        "pydantic_ai_client.py", PYDANTIC_AI, ("ModelContextWindowExceededError", 400, TOO_LONG), ("chat",)
    ),
    Client(
        "pydantic_ai_client.py",
        PYDANTIC_AI,
        ("ModelContextWindowExceededError", 400, TOO_LONG),
        ("responses",),
    ),
    Client("litellm_client.py", ("litellm==1.110.2",), ("ContextWindowExceededError", 400, None)),
]


class Scripted(FakeEngine):
    """Calls a tool that it is offered, once, and then says something of its own. A tool other than ``add`` is
    how a client without a format asks for its object."""

    def _choice(self, request: Any, index: int) -> Choice:
        is_answered = isinstance(request, ChatRequest) and any(m["role"] == "tool" for m in request.messages)
        choice = super()._choice(replace(request, tools=None) if is_answered else request, index)
        for call in choice.message.get("tool_calls", ()):
            if call["function"]["name"] != "add":
                call["function"]["arguments"] = '{"ok": true}'
        return choice


@pytest.fixture(scope="module")
def scripted(ray_cluster: None) -> Iterator[Any]:
    actor = ray.remote(Scripted).options(num_cpus=0, max_concurrency=10).remote("a")
    yield actor
    ray.kill(actor)


def variables(house: House, key: str) -> Mapping[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "OPENAI_BASE_URL": house.url,
        "OPENAI_API_KEY": key,
        "ANTHROPIC_BASE_URL": house.url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": key,
        "NO_PROXY": "*",
    }


async def run(command: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    printed, complaints = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, complaints.decode()
    seen: dict[str, Any] = orjson.loads(printed.splitlines()[-1])
    return seen


@pytest.mark.parametrize("client", CLIENTS, ids=str)
async def test_a_client_understands_each_answer_and_each_call_is_recorded_once(
    house: House, scripted: Any, client: Client, tmp_path: Path
) -> None:
    await house.admit(scripted)
    command = await asyncio.to_thread(client.command, tmp_path)
    attempt = await house.attempt()
    asked = len(await scripted.requests.remote())
    seen = await run(command, variables(house, attempt.key))
    assert seen == {
        "answer": "a0",
        "stream": "a0",
        "tool": ["add", {"x": 1}],
        "after_tool": "a0",
        "object": {"ok": True},
        "error": list(client.error),
    }
    calls = [span for span in house.calls(attempt) if span.kind is SpanKind.CALL]
    assert len(calls) == 5, "each call that was answered, once"
    assert len(await scripted.requests.remote()) - asked == 6, "the refused one is not recorded"
