"""A recipe and the code it names, small enough to be written by a test and run in seconds.

The agent asks for eight tokens and is rewarded with the share of ASCII letters among the characters of
the answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CODE = """
import asyncio
from pathlib import Path

from al_ray.protocols import Demonstration
from al_ray.types import Task


def load(path, split, *, count=8):
    return [Task(f"{split}-{i}", {"word": f"word {i}"}, split) for i in range(count)]


def load_long(path, split):
    return [Task(f"{split}-{i}", {"word": "many words " * 20, "n": i}, split) for i in range(8)]


def messages(task):
    return [{"role": "user", "content": task["word"]}]


def client(llm):
    # A runner's alone: half a second for each command that reads a recipe with this agent.
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key)


async def solve(task, llm):
    async with client(llm) as asking:
        reply = await asking.chat.completions.create(model=llm.model, messages=messages(task))
    return reply.choices[0].message.content


async def converse(task, llm):
    # Three calls, each of which continues the one before.
    said = messages(task)
    async with client(llm) as asking:
        for _ in range(3):
            reply = await asking.chat.completions.create(model=llm.model, messages=said)
            said.append(reply.choices[0].message.model_dump(exclude_none=True))
            said.append({"role": "user", "content": "go on"})
    return said[-2]["content"]


async def solve_slowly(task, llm):
    # Until there is a file "hurry".
    if not (Path(__file__).parent / "hurry").exists():
        await asyncio.sleep(0.5)
    return await solve(task, llm)


def score(task, output):
    return sum(letter.isascii() and letter.isalpha() for letter in output) / 8


def demonstrate(task):
    return Demonstration([*messages(task), {"role": "assistant", "content": "abcdefg"}])


def not_async(task, llm):
    return "no"


class Agent:
    async def __call__(self, task, llm):
        return await solve(task, llm)


agent = Agent()
number = 3
"""


def write_code(folder: Path) -> None:
    """``toy_agent.py``, which a recipe of ``recipe`` names."""
    (folder / "toy_agent.py").write_text(CODE, encoding="utf-8")


def recipe(model: Path, output: Path) -> dict[str, Any]:
    """Two steps of imitation and three of reinforcement, four rollouts each."""
    return {
        "name": "toy",
        "output": str(output),
        "model": {"path": str(model), "max_length": 128, "dtype": "float32"},
        "data": {"load": "toy_agent:load"},
        "agent": {
            "run": "toy_agent:solve",
            "evaluate": "toy_agent:score",
            "timeout": 60,
            "sampling": {"max_tokens": 8},
        },
        "stages": [
            {
                "algorithm": "supervised",
                "steps": 2,
                "tasks_per_step": 2,
                "demonstrate": "toy_agent:demonstrate",
                "optimizer": {"learning_rate": 1e-3},
            },
            {
                "algorithm": "grpo",
                "steps": 3,
                "groups_per_step": 2,
                "group_size": 2,
                "kl_coefficient": 0.01,
                "optimizer": {"learning_rate": 1e-3},
            },
        ],
        "evaluation": {"tasks": 2, "sampling": {"temperature": 0, "max_tokens": 8}},
        "engines": {"kv_cache_gib": 0.0625, "max_running": 8, "threads": 1},
        "learners": {"threads": 1},
        "placement": {"device": "cpu", "dashboard": False},
    }


def write_recipe(folder: Path, content: dict[str, Any]) -> Path:
    """``toy.yaml`` in ``folder``, executable."""
    path = folder / "toy.yaml"
    header = "#!/usr/bin/env -S python -m al_ray train\n"
    path.write_text(header + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    path.chmod(0o755)
    return path
