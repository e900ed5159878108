"""What it takes to hand rollouts out and to take them back: their agents end at once, and call nobody.

    python -m benchmarks.rollouts.control_plane [--runners 1 4 16] [--rollouts 100 1000 10000]

A real store, which writes SQLite, and real runners, which wait for work; this process is their driver. A line
for each size, from the moment at which all are asked for until the last is read: rollouts a second, what each
part computed for each, and the memory of the store and of each runner afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import psutil
import ray

from al_ray.actors.runner.actor import RUNNER_OPTIONS, Runner
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.actors.store.actor import STORE_OPTIONS, Store
from al_ray.database.backends import sqlite_url
from al_ray.database.reader import Records
from al_ray.recipe import AgentSection
from al_ray.types import RolloutRequest, RolloutStatus, Task
from benchmarks.agents.memory import pss

AGENT = AgentSection(run="benchmarks.rollouts.control_plane:instant", concurrency=32)
NOBODY = "http://127.0.0.1:9/v1"
GROUP = 4
"""Rollouts of a task, which the driver is told of when all have ended."""


async def instant(task: Any, llm: Any) -> float:
    """The agent."""
    return 1.0


@dataclass(frozen=True)
class Figures:
    """Of a round; milliseconds of a processor are for each rollout."""

    rate: float
    """Rollouts a second."""
    store_ms: float
    runners_ms: float
    driver_ms: float


class Plane:
    """A store and its runners."""

    def __init__(self, folder: Path, runners: int) -> None:
        url = sqlite_url(folder / "store.sqlite")
        self._records = Records(url)
        self._store: Any = ray.remote(Store).options(**STORE_OPTIONS).remote(url)
        actor: Any = ray.remote(Runner).options(**RUNNER_OPTIONS)
        specs = [RunnerSpec(f"runner-{n}", AGENT, [NOBODY], "none") for n in range(runners)]
        self._runners = [actor.remote(spec, self._store) for spec in specs]
        self._running = [runner.run.remote() for runner in self._runners]

    async def begin(self) -> None:
        """Returns once all are there and each has had work."""
        actors = (self._store, *self._runners)
        pids = await asyncio.gather(*(each.__ray_call__.remote(lambda _: os.getpid()) for each in actors))
        self.store, *self.runners = map(psutil.Process, pids)
        await self.round(2 * AGENT.concurrency * len(self.runners))

    async def round(self, rollouts: int) -> Figures:
        batch = uuid.uuid4().hex
        names = [f"{batch}-{number}" for number in range(rollouts // GROUP)]
        requests = [
            RolloutRequest(f"{name}/{number}", batch, name, Task(name, {"name": name}))
            for name in names
            for number in range(GROUP)
        ]
        before, begun = self._computed(), time.monotonic()
        await self._store.enqueue.remote(requests)
        ended: list[str] = []
        while len(ended) < len(names):
            fresh = await self._store.finished_groups.remote(batch, ended, 60.0)
            for group in await asyncio.to_thread(self._records.groups, batch, fresh):
                assert [each.status for each in group.rollouts] == [RolloutStatus.SUCCEEDED] * GROUP, group
            ended += fresh
        took, after = time.monotonic() - begun, self._computed()
        count = len(requests)
        parts = (1000 * (later - earlier) / count for earlier, later in zip(before, after, strict=True))
        return Figures(count / took, *parts)

    def _computed(self) -> tuple[float, float, float]:
        """Seconds that the store, the runners and this process have computed."""
        store, *runners, driver = (
            sum(each.cpu_times()[:2]) for each in (self.store, *self.runners, psutil.Process())
        )
        return store, sum(runners), driver

    def end(self) -> None:
        for actor in (*self._runners, self._store):
            ray.kill(actor)
        self._records.close()


async def measure(runners: int, sizes: Sequence[int], repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plane = Plane(Path(folder), runners)
        await plane.begin()
        for size in sizes:
            rounds = [await plane.round(size) for _ in range(repeats)]
            medians = (statistics.median(figures) for figures in zip(*map(astuple, rounds), strict=True))
            rate, store, of_runners, driver = medians
            memory = statistics.median(pss(each.pid) for each in plane.runners)
            print(
                f"{runners:>8} {size:>9} {rate:>11.0f} {store:>9.2f} {of_runners:>11.2f} {driver:>10.2f} "
                f"{pss(plane.store.pid) / 2**20:>10.0f} {memory / 2**20:>11.0f} {os.getloadavg()[0]:>5.1f}",
                flush=True,
            )
        plane.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runners", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rollouts", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address="local", num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False)
    print(f"medians of {arguments.repeats}; ms of a processor for each rollout, MiB of a process")
    print(" runners  rollouts  rollouts/s  store ms  runners ms  driver ms  store MiB  runner MiB  load")
    for runners in arguments.runners:
        asyncio.run(measure(runners, arguments.rollouts, arguments.repeats))
    ray.shutdown()


if __name__ == "__main__":
    main()
