"""Agents for runners to run: the task says what they do."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy

from al_ray.types import Attempt, Endpoint, RolloutRequest

STRANGE = {
    "nan": math.nan,
    "infinity": -math.inf,
    "text": "1",
    "no reward": {"accuracy": 1.0},
    "a dimension that is text": {"reward": 1.0, "style": "good"},
    "too large": 1e308,
    "too small": {"reward": 1.0, "style": -1e308},
    "too large for a float": 10**400,
    "an array": numpy.ones(2),
    "a name that cannot be stored": {"reward": 1.0, "\ud800": 1},
}
NUMBERS = {
    "numpy's True": numpy.True_,
    "numpy's float": numpy.float32(1.0),
    "numpy's array of one": {"reward": numpy.ones(()), "style": numpy.int64(1)},
    "a fraction": Fraction(1, 1),
    "a decimal": Decimal(1),
}


_places: dict[str, asyncio.Barrier] = {}


async def act(task: Mapping[str, Any], llm: Endpoint) -> Any:
    """Does ``task["do"]``."""
    return await globals()[f"_{task['do']}"](task)


async def _give(task: Mapping[str, Any]) -> Any:
    return task["value"]


async def _hold(task: Mapping[str, Any]) -> Any:
    Path(task["mark"]).touch()
    while not Path(task["until"]).exists():
        await asyncio.sleep(0.05)
    return 1.0


async def _give_something_strange(task: Mapping[str, Any]) -> Any:
    return STRANGE[task["value"]]


async def _give_a_number(task: Mapping[str, Any]) -> Any:
    return NUMBERS[task["value"]]


async def _fail(task: Mapping[str, Any]) -> Any:
    if "mark" in task:
        Path(task["mark"]).touch()
    raise ValueError("a mistake of the agent \ud800\x00")


async def _exit(task: Mapping[str, Any]) -> Any:
    sys.exit(3)


async def _raise_cancelled(task: Mapping[str, Any]) -> Any:
    raise asyncio.CancelledError


class Panic(BaseException):
    """As time-out libraries and bindings to other languages raise it; nor can it be printed."""

    def __str__(self) -> str:
        raise Panic


async def _panic(task: Mapping[str, Any]) -> Any:
    raise Panic


async def _fail_at_length(task: Mapping[str, Any]) -> Any:
    raise ValueError("x" * 2**20)


async def _fail_by_a_class_of_no_name(task: Mapping[str, Any]) -> Any:
    raise type("\ud800", (Exception,), {})


async def _give_a_generator(task: Mapping[str, Any]) -> Any:
    return (number for number in range(3))


class Unprintable:
    def __repr__(self) -> str:
        raise Panic


async def _give_what_cannot_be_printed(task: Mapping[str, Any]) -> Any:
    return Unprintable()


async def _give_much(task: Mapping[str, Any]) -> Any:
    return {"reward": 1.0, "text": "x" * 17 * 2**20}


async def _stop_iteration(task: Mapping[str, Any]) -> Any:
    raise StopIteration


async def _leave_the_generator(task: Mapping[str, Any]) -> Any:
    raise GeneratorExit


async def _exit_in_a_thread(task: Mapping[str, Any]) -> Any:
    threading.Thread(target=sys.exit).start()
    await asyncio.sleep(0.1)
    return 1.0


async def _exit_in_a_task(task: Mapping[str, Any]) -> Any:
    await asyncio.create_task(_exit(task))


async def _exit_the_process(task: Mapping[str, Any]) -> Any:
    os._exit(3)


async def _cancel_everybody(task: Mapping[str, Any]) -> Any:
    for each in asyncio.all_tasks():
        each.cancel()
    await asyncio.sleep(1000)


async def _stop_the_loop(task: Mapping[str, Any]) -> Any:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(1000)


async def _raise_timeout(task: Mapping[str, Any]) -> Any:
    raise TimeoutError("the agent's own")


async def _sleep(task: Mapping[str, Any]) -> Any:
    """Leaves a mark when it is cancelled, and one when it begins where it is asked to."""
    if "begun" in task:
        Path(task["begun"]).touch()
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        Path(task["mark"]).touch()
        raise


async def _ignore_cancellation(task: Mapping[str, Any]) -> Any:
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        await asyncio.sleep(0.2)
    return 1.0


async def _take_a_while(task: Mapping[str, Any]) -> Any:
    begun = time.time()
    await asyncio.sleep(0.3)
    return {"reward": 1.0, "begun": begun, "ended": time.time()}


async def _sleep_the_first_time(task: Mapping[str, Any]) -> Any:
    if not _first_time(task):
        return 1.0
    await asyncio.sleep(1000)


async def _block_the_first_time(task: Mapping[str, Any]) -> Any:
    if not _first_time(task):
        return 1.0
    time.sleep(1000)


async def _wait_for(task: Mapping[str, Any]) -> Any:
    """Returns nothing, or what the task says, once the mark is there."""
    while not Path(task["mark"]).exists():
        await asyncio.sleep(0.02)
    return task.get("value")


async def _meet(task: Mapping[str, Any]) -> Any:
    """Returns when as many as the task says are here, which is where one process is."""
    await _places.setdefault(task["place"], asyncio.Barrier(task["count"])).wait()
    return 1.0


async def _print(task: Mapping[str, Any]) -> Any:
    """From a task of its own, and from a thread."""
    await asyncio.create_task(_say(task["word"]))
    await asyncio.to_thread(print, task["word"], "in a thread")
    logging.getLogger("agent").warning(task["word"])
    return 1.0


async def _say(word: str) -> None:
    for _ in range(3):
        print(word)
        await asyncio.sleep(0.05)


def _first_time(task: Mapping[str, Any]) -> bool:
    mark = Path(task["mark"])
    first = not mark.exists()
    mark.touch()
    return first


def plain(task: Mapping[str, Any], llm: Endpoint) -> float:
    """Not async."""
    return 1.0


async def answer_and_spoil(task: dict[str, Any], llm: Endpoint) -> Any:
    """Its endpoint, after it has changed the task in place."""
    task["answer"]["right"] = "spoiled"
    if task.get("unstorable"):
        return object()
    return [llm.base_url, llm.api_key, llm.model]


def judge(task: Mapping[str, Any], output: Any) -> Any:
    """What the task says is right; awaited or not, as the task says."""
    if task.get("raise"):
        raise LookupError("a mistake of the evaluator")
    if task.get("panic"):
        raise Panic
    reward = {"reward": 0.5, "answered": 1, "right": task["answer"]["right"]}
    return _later(reward) if task.get("later") else reward


async def _later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


def before(request: RolloutRequest, attempt: Attempt) -> None:
    """Notes that it was called, or fails."""
    if request.task.data.get("before") == "fail":
        raise LookupError("a mistake before")
    if request.task.data.get("before") == "stop":
        raise StopIteration
    if request.task.data.get("before") == "hang":
        threading.Event().wait()
    _note(request, f"before {attempt.number} {attempt.status}")


async def after(request: RolloutRequest, attempt: Attempt) -> None:
    """Likewise."""
    _note(request, f"after {attempt.number} {attempt.status}")
    if request.task.data.get("after") == "fail":
        raise LookupError("a mistake after")
    if request.task.data.get("after") == "exit":
        sys.exit(3)
    if request.task.data.get("after") == "panic":
        raise Panic


def _note(request: RolloutRequest, line: str) -> None:
    with Path(request.task.data["notes"]).open("a") as file:
        print(line, file=file)
