"""Agents that wait, many at once in one runner: what one costs in memory, and that none is lost.

    python -m benchmarks.rollouts.runners KIND ROLLOUTS    (one of AGENTS, as async 2000)

A real store and a real runner. Each agent makes one call to a mock endpoint that answers nobody until
all of them wait. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from aiohttp import web

from al_ray.actors.runner.actor import RUNNER_OPTIONS, Runner
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.actors.store.actor import STORE_OPTIONS, Store
from al_ray.database.backends import sqlite_url
from al_ray.recipe import AgentSection
from al_ray.types import RolloutRequest, RolloutStatus, Task
from benchmarks.agents import waiting
from benchmarks.agents.memory import pss

AGENTS: dict[str, dict[str, Any]] = {
    "async": {"run": "benchmarks.agents.waiting:call_async"},
    "openai": {"run": "benchmarks.agents.waiting:call_openai"},
    "thread": {"run": "benchmarks.agents.waiting:call", "isolation": "thread"},
    "process": {"run": "benchmarks.agents.waiting:call", "isolation": "process"},
    "command": {
        "command": [sys.executable, str(Path(waiting.__file__))],
        "isolation": "command",
    },
}
REPLY = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "mock",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "1"}},
    ],
}


class Endpoint:
    """Answers nobody until ``expected`` wait and ``release`` is set."""

    def __init__(self) -> None:
        self.expected = 1
        self.waiting = 0
        self.full = asyncio.Event()
        self.release = asyncio.Event()

    async def start(self) -> str:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    async def _chat(self, request: web.Request) -> web.Response:
        await request.read()
        self.waiting += 1
        if self.waiting == self.expected:
            self.full.set()
        await self.release.wait()
        return web.json_response(REPLY)


def memory(runner: int) -> int:
    """Bytes of the runner, of its agents' processes and of their guardians; what they share, once."""
    return sum(pss(int(folder.name)) for folder in Path("/proc").iterdir() if _belongs(folder, runner))


def _belongs(folder: Path, runner: int) -> bool:
    if not folder.name.isdecimal():
        return False
    try:
        return folder.name == str(runner) or b"AL_RAY_ROLLOUT_ID=" in (folder / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


async def run(store: Any, endpoint: Endpoint, name: str, rollouts: int, runner: int) -> dict[str, Any]:
    """Memory while all wait, and how they ended."""
    endpoint.expected, endpoint.waiting = rollouts, 0
    endpoint.full.clear()
    endpoint.release.clear()
    begun = time.monotonic()
    await store.enqueue.remote(
        [RolloutRequest(f"{name}/{index}", name, name, Task("t", {})) for index in range(rollouts)]
    )
    await endpoint.full.wait()
    waiting = time.monotonic()
    used = memory(runner)
    released = time.monotonic()
    endpoint.release.set()
    await store.finished_groups.remote(name, [], 3600.0)
    ends = [
        rollout.status
        for rollout in await store.__ray_call__.remote(lambda s: s._database.groups(name, [name])[0].rollouts)
    ]
    return {
        "bytes": used,
        "succeeded": ends.count(RolloutStatus.SUCCEEDED),
        "until_all_wait": round(waiting - begun, 1),
        "until_all_ended": round(time.monotonic() - released, 1),
    }


async def measure(kind: str, rollouts: int) -> None:
    endpoint = Endpoint()
    url = await endpoint.start()
    agent = AgentSection(timeout=3600, concurrency=rollouts, **AGENTS[kind])
    with tempfile.TemporaryDirectory() as folder:
        store = ray.remote(Store).options(**STORE_OPTIONS).remote(sqlite_url(Path(folder) / "store.sqlite"))
        runner = (
            ray.remote(Runner).options(**RUNNER_OPTIONS).remote(RunnerSpec("r", agent, [url], "m"), store)
        )
        runner.run.remote()
        pid = await runner.__ray_call__.remote(lambda _: os.getpid())
        await run(store, endpoint, "warm", 1, pid)
        idle = memory(pid)
        result = await run(store, endpoint, "many", rollouts, pid)
        ray.kill(runner)
        ray.kill(store)
    used = result.pop("bytes") - idle
    figures = {"kind": kind, "rollouts": rollouts, **result, "idle_mib": round(idle / 2**20, 1)}
    print(json.dumps({**figures, "kib_per_waiting_rollout": round(used / 2**10 / rollouts, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=AGENTS)
    parser.add_argument("rollouts", type=int)
    arguments = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ray.init(address="local", num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False)
    asyncio.run(measure(arguments.kind, arguments.rollouts))
    ray.shutdown()


if __name__ == "__main__":
    main()
