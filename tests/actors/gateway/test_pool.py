"""The gateway pool: a gateway that is killed is replaced at its address, and nobody is refused meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import Mock

import pytest
import pytest_asyncio
from ray.exceptions import ActorDiedError

from al_ray.actors.gateway import door
from al_ray.actors.gateway import pool as gateway_pool
from al_ray.actors.gateway.pool import GatewayPool
from al_ray.actors.keepers import MAX_LOST
from tests.support.houses.gateway import SPEC, House
from tests.support.machines.processes import has_ended, wait_until_ended


@asynccontextmanager
async def pool_of(
    house: House, engine: Any, count: int = 1
) -> AsyncIterator[tuple[GatewayPool, list[House]]]:
    """A pool with the house's database, and the house as seen from each of its gateways."""
    pool = GatewayPool(SPEC, count, house.store_url, {})
    urls = await pool.start()
    await pool.admit([engine])
    yield pool, [replace(house, url=url) for url in urls]
    await pool.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(house: House, engine_a: Any) -> AsyncIterator[tuple[GatewayPool, House]]:
    """A pool of one gateway, for the tests after which there is one again, and the house as seen from it. The
    engines that the last of them admitted are still."""
    async with pool_of(house, engine_a) as (pool, [served]):
        yield pool, served


with_one = pytest.mark.asyncio(loop_scope="module")
"""For the tests that ask for ``one``."""


async def kill(actor: Any) -> None:
    """Returns when it is dead: until then it may take a connection."""
    pid = await actor.__ray_call__.remote(lambda _: os.getpid())
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while not has_ended(pid):
            await asyncio.sleep(0.01)


async def replaced(pool: GatewayPool, index: int, before: Any) -> Any:
    async with asyncio.timeout(60):
        while pool._posts[index]._gateway is before:
            await asyncio.sleep(0.05)
    return pool._posts[index]._gateway


@with_one
async def test_who_calls_while_a_gateway_is_replaced_waits_for_the_next(
    one: tuple[GatewayPool, House], engine_a: Any
) -> None:
    """At the same address, and with the engines that were admitted: no client is refused or tries again."""
    pool, served = one
    await pool.admit([engine_a])
    attempt = await served.attempt()
    for _ in range(2):
        await kill(pool._posts[0]._gateway)
        answers = await asyncio.gather(*(served.ask(attempt) for _ in range(20)))
        assert {answer.choices[0].message.content for answer in answers} == {"a0"}
    assert {span.id for span in served.calls(attempt)} >= {answer.id for answer in answers}
    assert pool.failure() is None


async def test_a_gateway_that_is_stopped_is_replaced_as_a_dead_one_is(
    house: House, engine_a: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take connections for ever and answer none. A door that is stopped is opened anew."""
    monkeypatch.setattr(gateway_pool, "_PING_EVERY", 0.5)
    monkeypatch.setattr(gateway_pool, "_ANSWER_SECONDS", 3.0)
    async with pool_of(house, engine_a) as (pool, [served]):
        attempt = await served.attempt()
        stopped = [await stop(pool._posts[0]._gateway)]
        async with asyncio.timeout(60):
            assert (await served.ask(attempt)).choices[0].message.content == "a0"
        before = pool._posts[0]._gateway
        stopped += [await stop(pool._posts[0]._door), await stop(before)]
        async with asyncio.timeout(60):
            await pool.admit([engine_a])
        await replaced(pool, 0, before)
        async with served.client(attempt).with_options(max_retries=5) as client:
            assert (await client.models.list()).data[0].id == "toy"
        assert pool.failure() is None
        wait_until_ended(*stopped)


async def stop(actor: Any) -> int:
    """As a debugger does, or a machine that swaps; returns the id of its process."""
    pid: int = await actor.__ray_call__.remote(lambda _: os.getpid())
    os.kill(pid, signal.SIGSTOP)
    return pid


@with_one
async def test_a_call_whose_gateway_dies_is_asked_again_by_its_clients_sdk(
    one: tuple[GatewayPool, House],
) -> None:
    from tests.support.houses.gateway import engine

    slow = engine("slow")
    pool, served = one
    await pool.admit([slow])
    attempt = await served.attempt()
    async with served.client(attempt).with_options(max_retries=2) as client:
        asked = asyncio.create_task(
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "wait"}])
        )
        while not await slow.requests.remote():
            await asyncio.sleep(0.05)
        await kill(pool._posts[0]._gateway)
        await slow.release.remote()
        assert (await asked).choices[0].message.content == "slow0"
    assert [span.id for span in served.calls(attempt)] == [(await asked).id]


async def test_one_gateways_death_is_not_felt_at_the_others(house: House, engine_a: Any) -> None:
    """And an attempt may go on at any of them."""
    async with pool_of(house, engine_a, count=2) as (pool, [first, second]):
        assert first.url != second.url
        attempt = await first.attempt()
        await first.ask(attempt)
        dead = pool._posts[0]._gateway
        await kill(dead)
        async with asyncio.timeout(60):
            await second.ask(attempt)
        await replaced(pool, 0, dead)
        await first.ask(attempt)
        assert len(first.calls(attempt)) == 3


@with_one
async def test_a_door_that_dies_before_its_gateway_is_opened_at_its_old_address(
    one: tuple[GatewayPool, House], engine_a: Any
) -> None:
    pool, served = one
    await pool.admit([engine_a])
    attempt = await served.attempt()
    await kill(pool._posts[0]._door)
    await served.ask(attempt)
    dead = pool._posts[0]._gateway
    await kill(dead)
    await replaced(pool, 0, dead)
    async with served.client(attempt).with_options(max_retries=5) as client:
        assert (await client.models.list()).data[0].id == "toy"
    assert pool.failure() is None


class FleetingDoor:
    """Dies, the first time it is opened, before anybody comes to it."""

    def __init__(self, door: Any) -> None:
        self.opened = 0
        self._door = door
        self.open = self

    async def remote(self, port: int) -> door.Address:
        address: door.Address = await self._door.open.remote(port)
        self.opened += 1
        if self.opened == 1:
            await kill(self._door)
        return address


@with_one
async def test_a_door_that_dies_while_its_gateway_is_replaced_is_opened_again(
    one: tuple[GatewayPool, House], engine_a: Any
) -> None:
    pool, served = one
    await pool.admit([engine_a])
    attempt = await served.attempt()
    post = pool._posts[0]
    real, post._door = post._door, FleetingDoor(post._door)
    dead = post._gateway
    await kill(dead)
    async with served.client(attempt).with_options(max_retries=5) as client, asyncio.timeout(60):
        while post._door.opened < 2:
            await asyncio.sleep(0.05)
        assert (await client.models.list()).data[0].id == "toy"
    assert pool.failure() is None
    post._door = real


def test_a_door_that_dies_in_mid_gift_is_told_from_one_that_gives() -> None:
    hatch = f"\0al_ray-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(hatch)
        listening.listen()
        Thread(target=lambda: listening.accept()[0].close()).start()
        with pytest.raises(ConnectionError, match="gave no socket"):
            door.at(door.Address(1, hatch, "node"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_gateway_that_is_lost_as_it_starts_is_followed_by_another(
    house: House, engine_a: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Also the first of a run."""
    begun = tmp_path / "begun"

    class Fleeting(gateway_pool.Gateway):
        async def start(self, at: Any = None) -> str:
            if not begun.exists():
                begun.touch()
                os.kill(os.getpid(), number)
            return await super().start(at)

    monkeypatch.setattr(gateway_pool, "Gateway", Fleeting)
    monkeypatch.setattr(gateway_pool, "_START_SECONDS", 20.0)
    async with pool_of(house, engine_a) as (pool, [served]):
        assert begun.exists()
        answer = await served.ask(await served.attempt())
        assert answer.choices[0].message.content == "a0"
        assert pool.failure() is None


async def test_a_gateway_that_cannot_be_replaced_is_reported(
    house: House, engine_a: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(gateway_pool.Gateway):
        async def start(self, at: Any = None) -> str:
            raise RuntimeError("no gateway here")

    async with pool_of(house, engine_a) as (pool, _):
        monkeypatch.setattr(gateway_pool, "Gateway", Broken)
        await kill(pool._posts[0]._gateway)
        async with asyncio.timeout(60):
            while (error := pool.failure()) is None:
                await asyncio.sleep(0.05)
    assert "no gateway here" in str(error)


async def test_a_gateway_that_dies_each_time_it_starts_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be started anew for good, while all that agents ask waits at its door."""
    starts: list[str] = []

    async def start(at: door.Address) -> str:
        starts.append("start")
        if len(starts) > 1:
            raise ActorDiedError
        return "http://gateway/v1"

    async def stay() -> None:
        raise ActorDiedError

    async def opened(port: int) -> door.Address:
        return door.Address(1, "hatch", "0" * 56)

    async def answer(*_: Any) -> None:
        """Any other question."""

    gateway, its_door = Mock(), Mock()
    for method, does in ((gateway.start, start), (gateway.stay, stay), (its_door.open, opened)):
        method.remote = does
    gateway.ping.remote = gateway.admit.remote = answer
    actors = {gateway_pool.Gateway: gateway, door.Door: its_door}
    made = Mock(side_effect=lambda kind: Mock(**{"options.return_value.remote.return_value": actors[kind]}))
    monkeypatch.setattr(gateway_pool, "ray", Mock(remote=made))
    pool = GatewayPool(SPEC, 1, "sqlite://", {})
    await pool.start()
    async with asyncio.timeout(60):
        while pool.failure() is None:
            await asyncio.sleep(0.001)
    assert isinstance(pool.failure(), ActorDiedError)
    assert len(starts) == 2 + MAX_LOST
