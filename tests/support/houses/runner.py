"""A real store with a real runner of one agent: what tests of agents and their ends look into."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray

from al_ray.actors.runner.actor import RUNNER_OPTIONS, Runner
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.database.backends import sqlite_url
from al_ray.recipe import AgentSection
from al_ray.types import RetryRules, Rollout, RolloutRequest, Task
from tests.support.houses.beside_the_store import finished
from tests.support.houses.stores import lent_store

TIMEOUT = 1.0
CONCURRENCY = 3
LEASE_SECONDS = 6.0


@dataclass(frozen=True)
class House:
    """Whoever looks in may enqueue rollouts and wait for their ends."""

    store: Any
    runner: Any

    async def enqueue(self, *tasks: dict[str, Any], max_attempts: int = 1) -> str:
        """One new group; returns its batch. The rollouts' ids are the batch's, ``/`` and a number.

        No other worker's tests have the same: processes are known by them (``alive``).
        """
        batch = f"batch-{secrets.token_hex(8)}"
        await self.store.enqueue.remote(
            [
                RolloutRequest(f"{batch}/{i}", batch, batch, Task("t", task), retry=RetryRules(max_attempts))
                for i, task in enumerate(tasks)
            ]
        )
        return batch

    async def ended(self, batch: str) -> list[Rollout]:
        (group,) = await finished(self.store, batch)
        return list(group.rollouts)

    async def rollouts(self, *tasks: dict[str, Any], max_attempts: int = 1) -> list[Rollout]:
        """Of one new group, ended."""
        return await self.ended(await self.enqueue(*tasks, max_attempts=max_attempts))

    async def rollout(self, task: dict[str, Any], max_attempts: int = 1) -> Rollout:
        (rollout,) = await self.rollouts(task, max_attempts=max_attempts)
        return rollout


def house_of(
    path: Path,
    base_url: str = "http://gateway/v1",
    surroundings: Mapping[str, str] = MappingProxyType({}),
    services: Mapping[str, str] = MappingProxyType({}),
    lease: float = LEASE_SECONDS,
    **agent: Any,
) -> Iterator[House]:
    """``agent`` is the recipe's section, ``surroundings`` the variables where the runner is started."""
    section = AgentSection(**{"timeout": TIMEOUT, "concurrency": CONCURRENCY, "grace": 0.3, **agent})
    given = {name: surroundings[name] for name in section.environment}
    with lent_store(sqlite_url(path / "store"), lease_seconds=lease) as store:
        runner = (
            ray.remote(Runner)
            .options(**RUNNER_OPTIONS, runtime_env={"env_vars": dict(surroundings)})
            .remote(RunnerSpec("r", section, [base_url], "toy", dict(services), given), store)
        )
        run = runner.run.remote()
        yield House(store, runner)
        done, _ = ray.wait([run], timeout=0)
        ray.kill(runner)
        ray.wait([run], timeout=60)  # for its end: it asks for no more
        assert not done, f"the runner itself has ended: {run}"


def alive(rollout_id: str) -> list[int]:
    """The processes that descend from the rollout's agent, guardians included, and have not ended."""
    mark = f"AL_RAY_ROLLOUT_ID={rollout_id}".encode()
    return [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdecimal() and mark in _environment(folder).split(b"\0")
    ]


def _environment(process: Path) -> bytes:
    """Of a process that may end at any moment, or be another user's; a zombie has none left."""
    try:
        return (process / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


async def until(happened: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.05)


async def appears(path: Path) -> None:
    await until(path.exists)
