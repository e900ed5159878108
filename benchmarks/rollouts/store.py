"""Whole rollouts a second: our store, durable, beside Agent Lightning 0.3's in memory, in one run.

    python -m benchmarks.rollouts.store [--runners 32 100 300 1000] [--repeats 3]

A rollout is enqueued, claimed, started, given 20 spans one after the other, finished and read. Each
store is served as it is for runners in other processes: ours by its Ray actor and, for spans, by a
gateway's recorder, both writing SQLite; theirs by ``agl store``, from an environment that is made once
in ``benchmarks/``. All runners of a store share one process with its driver (ours, with the recorder too).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from al_ray.actors.coalescer import Coalescer
from al_ray.actors.store.actor import STORE_OPTIONS, Store
from al_ray.actors.store.span_recorder import SpanRecorder
from al_ray.database.backends import sqlite_url
from al_ray.database.writer import Database
from al_ray.types import Attempt, AttemptStatus, Claim, RolloutRequest, Span, SpanKind, Start, Task
from benchmarks.peers.store_load import ATTRIBUTES, SPANS, rate

LEASE_SECONDS = 3600.0
"""Nobody renews: a slow machine is no dead runner."""
OTHER = Path(__file__).resolve().parents[1] / ".venv-agentlightning"


class AlRay:
    """A ``store_load.Side``: one message asks for all runners, as a runner actor does, and spans are
    recorded as a gateway does it."""

    def __init__(self, store: Any, url: str) -> None:
        self._store = store
        self._database = Database(url)
        self._recorder = SpanRecorder(self._database)
        self._claim: Coalescer[str, Claim | None] = Coalescer(self._claim_for)
        self._start: Coalescer[Start, bool] = Coalescer(store.start.remote)
        self._finish: Coalescer[tuple[Attempt, Sequence[Span]], bool] = Coalescer(store.finish.remote)

    async def enqueue(self, names: Sequence[str]) -> None:
        await self._store.enqueue.remote(
            [RolloutRequest(name, _batch(name), name, Task(name, {"name": name})) for name in names]
        )

    async def claim(self, runner: str) -> Attempt | None:
        claim = await self._claim(runner)
        if claim is None:
            return None
        await self._start(Start(claim.attempt.rollout_id, claim.attempt.number))
        return claim.attempt

    async def _claim_for(self, runners: list[str]) -> Sequence[Claim | None]:
        claims = await self._store.claim.remote("runner", uuid.uuid4().hex, len(runners), 0.0)
        return [*claims, *[None] * (len(runners) - len(claims))]

    async def record(self, attempt: Attempt, number: int) -> None:
        now = time.time()
        name = f"{attempt.rollout_id}/{number}"
        reference = (attempt.rollout_id, attempt.number)
        await self._recorder.record(Span(name, *reference, SpanKind.CALL, "chat", now, now, ATTRIBUTES))

    async def finish(self, attempt: Attempt) -> None:
        await self._finish((replace(attempt, status=AttemptStatus.SUCCEEDED), ()))

    async def read(self, names: Sequence[str]) -> int:
        done: list[str] = []
        spans = 0
        while len(done) < len(names):
            ended = await self._store.finished_groups.remote(_batch(names[0]), done, 60.0)
            done += ended
            for group in await asyncio.to_thread(self._database.groups, _batch(names[0]), ended):
                spans += sum(len(rollout.spans) for rollout in group.rollouts)
        return spans


def _batch(name: str) -> str:
    return name.partition("-")[0]


async def measure(runners: int, repeats: int) -> float:
    """The median rate of our store, after a first round that is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        url = sqlite_url(Path(folder) / "store.sqlite")
        store = ray.remote(Store).options(**STORE_OPTIONS).remote(url, LEASE_SECONDS)
        await store.ping.remote()
        side = AlRay(store, url)
        await rate(side, runners, runners)
        rates = [await rate(side, runners, _rollouts(runners)) for _ in range(repeats)]
        ray.kill(store)
    return statistics.median(rates)


def _rollouts(runners: int) -> int:
    """In a round, of either side: each runner has several, so that how a round ends counts little."""
    return max(500, 2 * runners)


def measure_agentlightning(runners: int, repeats: int) -> float:
    """The median rate of theirs, likewise."""
    command = [OTHER / "bin" / "python", "-m", "benchmarks.peers.agentlightning_store"]
    arguments = [str(runners), str(_rollouts(runners)), str(repeats)]
    result = subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return statistics.median(map(float, result.stdout.split()))


def install_agentlightning() -> None:
    if not (OTHER / "bin" / "agl").exists():
        subprocess.run([sys.executable, "-m", "venv", OTHER], check=True)
        pip = [OTHER / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "agentlightning==0.3.0"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runners", type=int, nargs="+", default=[32, 100, 300, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    install_agentlightning()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    print(f"{SPANS} spans a rollout; whole rollouts a second, median of {arguments.repeats}", flush=True)
    print(f"{'runners':>8} {'al_ray':>9} {'agentlightning 0.3.0':>21} {'ratio':>7} {'load':>6}")
    for runners in arguments.runners:
        ours = asyncio.run(measure(runners, arguments.repeats))
        theirs = measure_agentlightning(runners, arguments.repeats)
        load = os.getloadavg()[0]
        print(f"{runners:>8} {ours:>9.0f} {theirs:>21.1f} {ours / theirs:>7.0f} {load:>6.1f}", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
