"""What each environment's agent costs besides its model.

    python -m benchmarks.rollouts.environments NAME    (one of ENVIRONMENTS)

The model is a mock in a process of its own. Rollouts run as a runner runs them: many in one event loop or
each in a process, each with a key of its own, its reward included. Prints one line of JSON: rollouts a
second when the mock answers at once, what a rollout takes of the processor here (processes that the
environment starts included), and the memory of a rollout that waits for its first answer."""

from __future__ import annotations

import argparse
import asyncio
import inspect
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from al_ray.actors.agent.guardian import adopt_orphans
from al_ray.actors.agent.isolation import ISOLATIONS
from al_ray.actors.agent.job import Job
from al_ray.actors.agent.printed import Printed
from al_ray.recipe import AgentSection, dotted
from al_ray.types import Attempt, Endpoint, RolloutRequest, Task
from benchmarks.agents.memory import pss

Request = Mapping[str, Any]


@dataclass(frozen=True)
class Environment:
    """An environment by its parts' dotted paths, and what the mock answers in place of its model."""

    load: str
    agent: AgentSection
    message: Callable[[Request, str], Mapping[str, Any]]
    """Of a request's body and the agent's name: the assistant's message."""
    rollouts: int = 400
    concurrency: int = 64
    waiting: int = 400
    options: Mapping[str, Any] = field(default_factory=dict)
    """The loader's."""


def musique(request: Request, agent: str) -> Mapping[str, Any]:
    """A search, then an answer."""
    if request["messages"][-1]["role"] == "tool":
        return {"role": "assistant", "content": "<think>so</think><answer>Northmoor</answer>"}
    call = {"name": "search", "arguments": '{"query": "county"}'}
    return {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": call}]}


def spider(request: Request, agent: str) -> Mapping[str, Any]:
    """A query at once, which the checker accepts."""
    reply = "THE QUERY IS CORRECT" if agent == "checker" else "SELECT count(*) FROM sqlite_master"
    return {"role": "assistant", "content": reply}


def calc_x(request: Request, agent: str) -> Mapping[str, Any]:
    """A calculation, then the answer."""
    if request["messages"][-1]["role"] == "tool":
        return {"role": "assistant", "content": "### ANSWER: 4 ###"}
    function = {"name": request["tools"][0]["function"]["name"], "arguments": '{"expression": "2+2"}'}
    call = {"id": "call_0", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def calc_x_autogen(run: str) -> Environment:
    """Of processes, fewer."""
    agent = AgentSection(
        run=f"al_ray.envs.calc_x.autogen_agent:{run}",
        isolation="process",
        requirements=["autogen-agentchat==0.7.5", "autogen-ext[openai,mcp]==0.7.5", "mcp<2"],
        evaluate="al_ray.envs.calc_x.reward:score",
    )
    return Environment("al_ray.envs.calc_x.data:load", agent, calc_x, rollouts=16, concurrency=4, waiting=8)


ENVIRONMENTS = {
    "spider": Environment(
        "al_ray.envs.spider.data:load",
        AgentSection(run="al_ray.envs.spider.agent:solve", evaluate="al_ray.envs.spider.reward:score"),
        spider,
    ),
    "calc_x": Environment(
        "al_ray.envs.calc_x.data:load",
        AgentSection(run="al_ray.envs.calc_x.agent:solve", evaluate="al_ray.envs.calc_x.reward:score"),
        calc_x,
    ),
    "calc_x_autogen_mcp": calc_x_autogen("solve"),
    "calc_x_autogen_in_process": calc_x_autogen("solve_in_process"),
    "musique": Environment(
        "al_ray.envs.musique.data:load",
        AgentSection(run="al_ray.envs.musique.agent:solve", evaluate="al_ray.envs.musique.scoring:score"),
        musique,
        options={"setting": "paragraphs"},
    ),
}


class Mock:
    """Answers as the environment says; after ``/hold`` nobody, until ``/release``."""

    def __init__(self, environment: Environment) -> None:
        self._message = environment.message
        self._open = asyncio.Event()
        self._open.set()
        self._waiting = 0

    async def serve(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/traces", self._traces),
                web.post("/hold", self._hold),
                web.post("/release", self._release),
                web.get("/waiting", self._tell_waiting),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._waiting += 1
        await self._open.wait()
        self._waiting -= 1
        message = self._message(body, request.headers.get("x-al-ray-agent", ""))
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        choice = {"index": 0, "message": message, "finish_reason": finish}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        head = {"id": "mock", "object": "chat.completion", "created": 0, "model": body["model"]}
        return web.json_response(head | {"choices": [choice], "usage": usage})

    async def _traces(self, request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({})

    async def _hold(self, _: web.Request) -> web.Response:
        self._open.clear()
        return web.Response()

    async def _release(self, _: web.Request) -> web.Response:
        self._open.set()
        return web.Response()

    async def _tell_waiting(self, _: web.Request) -> web.Response:
        return web.json_response(self._waiting)


class Rollouts:
    """Runs the agent on the environment's sample tasks, over and over."""

    def __init__(self, environment: Environment, url: str) -> None:
        loaded = dotted.load(environment.load, "load")(None, "train", **environment.options)
        self._tasks = itertools.cycle(getattr(loaded, "tasks", loaded))
        self._agent = ISOLATIONS[environment.agent.isolation](environment.agent)
        self._evaluate = dotted.load(environment.agent.evaluate or "", "evaluate")
        self._url = f"{url}/v1"
        self._keys = itertools.count()

    async def run(self, count: int, concurrency: int) -> None:
        slots = asyncio.Semaphore(concurrency)
        await asyncio.gather(*(self._one(next(self._tasks), slots) for _ in range(count)))

    async def _one(self, task: Task, slots: asyncio.Semaphore) -> None:
        async with slots:
            attempt = Attempt(f"rollout-{next(self._keys)}", 1, "")
            endpoint = Endpoint(self._url, f"key of {attempt.rollout_id}", "model")
            request = RolloutRequest(attempt.rollout_id, "b", "g", task)
            running = await self._agent.start(Job(request, attempt, endpoint, Printed()))
            output = await running.wait()
            await running.end()
            scored = self._evaluate(task.data, output)
            if inspect.isawaitable(scored):
                await scored


def processor_seconds(mock: int) -> float:
    """Of this process and all that it started but the mock."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # what those that ended have used is then ours
            pass
    return sum(_ticks(pid) for pid in _family(mock)) / os.sysconf("SC_CLK_TCK")


def memory(mock: int) -> int:
    """Bytes of the same processes; what they share, once."""
    return sum(pss(pid) for pid in _family(mock))


def _family(mock: int) -> list[int]:
    parents = {
        int(folder.name): _stat(folder)[1] for folder in Path("/proc").iterdir() if folder.name.isdecimal()
    }
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == str(pid) and child != mock]
    return found


def _stat(folder: Path) -> list[str]:
    """The fields of ``stat`` after the name; of a process that is gone, zeros."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["0"] * 15


def _ticks(pid: int) -> int:
    return sum(map(int, _stat(Path(f"/proc/{pid}"))[11:15]))


async def measure(environment: Environment, url: str, mock: int) -> dict[str, float]:
    rollouts = Rollouts(environment, url)
    await rollouts.run(environment.concurrency, environment.concurrency)  # imports, clients, processes
    begun, used = time.monotonic(), processor_seconds(mock)
    await rollouts.run(environment.rollouts, environment.concurrency)
    seconds, used = time.monotonic() - begun, processor_seconds(mock) - used
    before = memory(mock)
    async with aiohttp.ClientSession(url) as control:
        await control.post("/hold")
        waiting = asyncio.create_task(rollouts.run(environment.waiting, environment.waiting))
        while await (await control.get("/waiting")).json() < environment.waiting:
            await asyncio.sleep(0.1)
        held = memory(mock) - before
        await control.post("/release")
        await waiting
    return {
        "rollouts_per_second": round(environment.rollouts / seconds, 1),
        "cpu_ms_per_rollout": round(1000 * used / environment.rollouts, 2),
        "kib_per_waiting_rollout": round(held / 2**10 / environment.waiting, 1),
    }


def report(name: str) -> None:
    """Measure the environment, and print its line."""
    # Agents' processes outlive those that start them, and would be another's children.
    adopt_orphans()
    command = [sys.executable, "-m", "benchmarks.rollouts.environments", "--mock", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as mock:
        assert mock.stdout is not None
        url = f"http://127.0.0.1:{int(mock.stdout.readline())}"
        print(json.dumps({"environment": name, **asyncio.run(measure(ENVIRONMENTS[name], url, mock.pid))}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=ENVIRONMENTS)
    parser.add_argument("--mock", action="store_true", help="serve its mock model, no more")
    arguments = parser.parse_args()
    if arguments.mock:
        asyncio.run(Mock(ENVIRONMENTS[arguments.name]).serve())
    else:
        report(arguments.name)


if __name__ == "__main__":
    main()
