"""What agents run with: what keeps rollouts from ending ends the run with its reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from al_ray.actors.gateway.pool import GatewayPool
from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.database.backends import sqlite_url
from al_ray.database.reader import Records
from al_ray.errors import EngineUnavailableError, RecipeError, UnresponsiveError
from al_ray.recipe import AgentSection
from al_ray.run.agents import Agents
from al_ray.types import Group, RetryRules, Rollout, RolloutRequest, RolloutStatus, Task
from tests.support.houses.gateway import SPEC
from tests.support.houses.stores import lent_store

REQUEST = RolloutRequest("r", "b", "g", Task("t", {"do": "meet", "place": "nowhere", "count": 2}))


@asynccontextmanager
async def started(folder: Path, agent: str) -> AsyncIterator[Agents]:
    url = sqlite_url(folder / "store.sqlite")
    with lent_store(url) as store:
        await store.ping.remote()
        gateways = GatewayPool(SPEC, 1, url, {})
        spec = RunnerSpec("runner", AgentSection(run=agent), await gateways.start(), "toy")
        runners = RunnerPool(spec, 1, store, {})
        runners.start()
        records = Records(url)
        yield Agents(store, records, [runners, gateways])
        records.close()
        await runners.stop()
        await gateways.stop()


async def wait_for(agents: Agents) -> None:
    async with asyncio.timeout(90):
        async for groups in agents.rollouts([REQUEST]):
            assert not groups, "the rollout cannot end"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("al_ray.run.agents._WATCH_SECONDS", 0.2)


async def test_runners_that_cannot_work_end_the_run(ray_cluster: None, tmp_path: Path) -> None:
    async with started(tmp_path, "no_such_package:agent") as agents:
        with pytest.raises(RecipeError, match="no_such_package"):
            await wait_for(agents)


class Policy:
    """Whose engines could not be kept."""

    def failure(self) -> BaseException:
        return EngineUnavailableError("six engines died")


async def test_engines_that_cannot_be_kept_end_the_run(ray_cluster: None, tmp_path: Path) -> None:
    async with started(tmp_path, "tests.support.agents.told:act") as agents:
        with pytest.raises(EngineUnavailableError, match="six engines died"):
            await wait_for(replace(agents, needs=[*agents.needs, Policy()]))


async def test_a_store_that_does_not_come_up_again_ends_the_run_whatever_was_asked_of_it() -> None:
    """Ray would go on asking for good."""

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    class Keeper:
        """That has given up."""

        def failure(self) -> BaseException:
            return UnresponsiveError("the store, started anew, did not answer")

    asked = SimpleNamespace(remote=never)
    store = SimpleNamespace(enqueue=asked, withdraw=asked, finished_groups=asked)
    records: Any = None
    agents = Agents(store, records, [Keeper()])
    for waiting in (anext(agents.ended([REQUEST])), agents.ask([REQUEST]), agents.withdraw(0, 0)):
        with pytest.raises(UnresponsiveError, match="the store, started anew"):
            await asyncio.wait_for(waiting, 20)


async def test_a_judged_group_is_there_when_it_is_judged_though_others_still_run() -> None:
    """And it is known which groups there were before they are asked for."""

    async def nothing(*_: Any) -> None: ...

    async def finished(batch: str, done: list[str], wait: float) -> list[str]:
        await asyncio.sleep(0.01)
        return [name for name in ("g0", "g1") if name not in done]

    def groups(batch: str, names: list[str]) -> list[Group]:
        ended = RolloutStatus.SUCCEEDED
        return [
            Group(name, batch, [Rollout(replace(REQUEST, batch=batch, group=name), ended)]) for name in names
        ]

    store = SimpleNamespace(
        enqueue=SimpleNamespace(remote=nothing), finished_groups=SimpleNamespace(remote=finished)
    )
    records: Any = SimpleNamespace(groups=groups, finished_groups=lambda batch, done: ["g0", "g1", "old"])
    requests = [replace(REQUEST, id=f"g{i}/0", group=f"g{i}") for i in range(4)]
    agents = Agents(store, records, [], RetryRules(1))
    assert await agents.recorded(requests) == 0.5
    judged = agents.ended(requests)
    assert {group.id for group in await asyncio.wait_for(anext(judged), 20)} == {"g0", "g1"}
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(judged), 0.2)
