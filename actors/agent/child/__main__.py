"""What runs a Python agent in a process of its own: a script for any interpreter, al_ray or not.

``python agent_child RESULT`` needs Python 3.8 and its standard library. Standard input brings a JSON
object: ``run`` (the agent's dotted path) and, unless it is only to be imported, ``task`` and
``endpoint``. What comes of it goes, as JSON, to the inherited file of number RESULT, out of the way of
whatever the agent prints: ``{"output": ...}``, or ``{"error": TRACEBACK, "error_class": NAME}``.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import signal
import sys
import traceback
from typing import Any, NamedTuple


class Endpoint(NamedTuple):
    """``al_ray.types.Endpoint``, where there is no al_ray."""

    base_url: str
    api_key: str
    model: str
    services: dict[str, str]


def main(result: int) -> None:
    os.set_inheritable(result, False)
    request = json.load(sys.stdin.buffer)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    signal.signal(signal.SIGTERM, _leave)
    process = os.getpid()
    try:
        answer = json.dumps({"output": _run(request)}, default=_plain)
    except BaseException as error:  # also SystemExit: told as what it is
        name = f"{type(error).__module__}.{type(error).__qualname__}"
        answer = json.dumps({"error": traceback.format_exc(), "error_class": name})
    if os.getpid() != process:
        return  # a copy that the agent has forked, and SIGTERM found: the answer is not its to give
    with os.fdopen(result, "wb") as file:
        file.write(answer.encode())


def _run(request: dict[str, Any]) -> Any:
    module, _, attribute = request["run"].partition(":")
    agent = getattr(importlib.import_module(module), attribute)
    wanted = _wanted(agent)
    if "task" not in request:
        return None
    output = agent(*(request["task"], Endpoint(**request["endpoint"]))[:wanted])
    return asyncio.run(_awaited(output)) if inspect.isawaitable(output) else output


def _wanted(agent: Any) -> int:
    """Whether it takes the task and the endpoint, or the task alone."""
    signature = inspect.signature(agent)
    try:
        signature.bind(None, None)
    except TypeError:
        signature.bind(None)
        return 1
    return 2


async def _awaited(output: Any) -> Any:
    return await output


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy or torch as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"the agent returned a value of type {type(value).__name__}, which JSON cannot carry")


def _leave(number: int, frame: Any) -> None:
    """SIGTERM: leave by way of every ``finally``."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main(int(sys.argv[1]))
