"""An agent whose rollouts differ, and a judge that ranks them: the task says how both behave."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from al_ray.protocols import Candidate
from al_ray.types import Endpoint

_numbers = itertools.count()
_asked: dict[str, int] = {}


async def number_off(task: Mapping[str, Any], llm: Endpoint) -> Any:
    """No reward. Every second one fails where the task says so, or all do."""
    number = next(_numbers)
    if task.get("fail") == "all" or (task.get("fail") == "some" and number % 2):
        raise ValueError("a mistake of the agent")
    return {"number": number}


def rank(task: Mapping[str, Any], candidates: Sequence[Candidate], llm: Endpoint) -> Any:
    """The later, the better; awaited or not, as the task says."""
    print(f"judging {len(candidates)}")
    _asked[task["name"]] = _asked.get(task["name"], 0) + 1
    match task.get("judge"):
        case "raise":
            raise LookupError("a judge without an opinion")
        case "raise once" if _asked[task["name"]] == 1:
            raise LookupError("a judge without an opinion")
        case "forget":
            return [1.0]
        case "nan":
            return [float("nan") for _ in candidates]
        case "hang":
            return _hang()
    numbers = sorted(candidate.output["number"] for candidate in candidates)
    rewards = [
        {"reward": numbers.index(candidate.output["number"]) / len(numbers), "judged": len(numbers)}
        for candidate in candidates
    ]
    return _later(rewards) if task.get("later") else rewards


async def _later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def _hang() -> Any:
    await asyncio.sleep(60)
