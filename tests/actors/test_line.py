"""Calls over lines are what Ray's calls are: their answers, errors, cancellations and ends."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import ray
import uvloop
from ray.exceptions import RayActorError

from al_ray.actors.line import Address, Line, LineLostError, OnLine
from al_ray.errors import BadRequestError


class Actor(OnLine):
    def __init__(self) -> None:
        self._released = asyncio.Event()
        self._ended: list[str] = []

    async def twice(self, value: Any) -> Any:
        return [value, value]

    async def fail(self, error: Exception) -> None:
        raise error

    async def unpicklable(self) -> Any:
        return lambda: None

    async def wait(self) -> str:
        try:
            await self._released.wait()
        except asyncio.CancelledError:
            self._ended.append("wait")
            raise
        return "released"

    async def release(self) -> None:
        self._released.set()

    async def numbers(self, end: int, error: Exception | None = None) -> AsyncGenerator[int, None]:
        try:
            for number in range(end):
                yield number
                await asyncio.sleep(0)
            if error is not None:
                raise error
        finally:
            self._ended.append("numbers")

    async def ended(self) -> list[str]:
        return self._ended

    async def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def actor(ray_cluster: None) -> Iterator[Any]:
    actor = ray.remote(Actor).options(num_cpus=0).remote()
    yield actor
    ray.kill(actor)


@pytest.fixture
async def line(actor: Any) -> AsyncIterator[Line]:
    line = await Line.to(actor)
    yield line
    line.close()


async def test_calls_are_answered_many_at_once_in_whatever_order_they_end(line: Line) -> None:
    waiting = asyncio.create_task(line.ask("wait"))
    values = [None, "ä", b"\0" * 2**20, {"x": [1.5]}]
    assert await asyncio.gather(*(line.ask("twice", value) for value in values)) == [[v, v] for v in values]
    assert not waiting.done()
    await line.ask("release")
    assert await waiting == "released"


async def test_items_come_in_their_order_and_then_end(line: Line) -> None:
    both = [[n async for came in line.items("numbers", end) for n in came] for end in (0, 1000)]
    assert both == [[], list(range(1000))]


async def test_items_that_came_while_nobody_looked_come_together(line: Line) -> None:
    """And before what their method raised after them."""
    items = line.items("numbers", 1000, ZeroDivisionError("a bug"))
    begun = await anext(items)
    async with asyncio.timeout(60):
        while await line.ask("ended") != ["numbers"]:
            pass
    assert begun + await anext(items) == list(range(1000))
    with pytest.raises(RuntimeError, match="a bug"):
        await anext(items)


async def test_an_error_of_ours_comes_as_itself_and_anothers_with_its_place(line: Line) -> None:
    """And the line goes on."""
    with pytest.raises(BadRequestError, match=r"^messages: why$"):
        await line.ask("fail", BadRequestError("messages: why"))
    with pytest.raises(RuntimeError, match=r"test_line\.py.*\n.*raise error\n.*ZeroDivisionError: a bug"):
        await line.ask("fail", ZeroDivisionError("a bug"))
    with pytest.raises(RuntimeError, match="pickle"):
        await line.ask("unpicklable")
    with pytest.raises(RuntimeError, match="no_such_method"):
        await line.ask("no_such_method")
    assert await line.ask("twice", 1) == [1, 1]


async def test_what_is_cancelled_or_no_longer_wanted_ends_at_the_actor(line: Line) -> None:
    waiting = asyncio.create_task(line.ask("wait"))
    await line.ask("twice", 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with aclosing(line.items("numbers", 10**9)) as numbers:
        assert (await anext(numbers))[0] == 0
    async with asyncio.timeout(60):
        while sorted(await line.ask("ended")) != ["numbers", "wait"]:
            await asyncio.sleep(0.01)


async def test_calls_under_way_end_when_the_line_is_closed(actor: Any, line: Line) -> None:
    """At both ends."""
    waiting = asyncio.create_task(line.ask("wait"))
    await line.ask("twice", 1)
    line.close()
    with pytest.raises(LineLostError):
        await waiting
    with pytest.raises(LineLostError):
        await line.ask("twice", 1)
    async with asyncio.timeout(60):
        while await actor.ended.remote() != ["wait"]:
            await asyncio.sleep(0.01)


async def test_calls_of_an_actor_that_is_killed_are_told_so_and_it_is_not_reached_again(
    actor: Any, line: Line
) -> None:
    waiting = asyncio.create_task(line.ask("wait"))
    os.kill(await line.ask("pid"), signal.SIGKILL)
    with pytest.raises(LineLostError):
        await waiting
    with pytest.raises(RayActorError):
        await Line.to(actor)


def test_a_call_that_begins_as_its_line_breaks_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop of Ray's actors refuses what is written to a socket that broke; whoever reads from that
    hears of it a moment later."""
    monkeypatch.setattr(ray, "cancel", lambda attended: None)

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        linger = struct.pack("ii", True, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async def ask_as_it_breaks() -> None:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(reset, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        line, asked = Line(reader, writer, loop.create_future()), loop.create_future()
        protocol: Any = writer.transport.get_protocol()
        tell = protocol.connection_lost

        def connection_lost(error: Exception | None) -> None:
            asked.set_result(asyncio.create_task(line.ask("twice", 1)))
            tell(error)

        protocol.connection_lost = connection_lost
        writer.write(b"!")
        with pytest.raises(LineLostError):
            await (await asked)
        server.close()

    uvloop.new_event_loop().run_until_complete(ask_as_it_breaks())


async def test_ray_tells_of_an_actor_of_which_its_socket_does_not(actor: Any, line: Line) -> None:
    """As when its node is cut off: here its process stands still, and Ray is told that it is gone."""
    pid = await line.ask("pid")
    os.kill(pid, signal.SIGSTOP)
    waiting = asyncio.create_task(line.ask("wait"))
    ray.kill(actor)
    try:
        with pytest.raises(LineLostError):
            await asyncio.wait_for(waiting, 60)
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


class Elsewhere(OnLine):
    """At an address of which it is told."""

    def __init__(self, address: Address) -> None:
        self._there = address

    async def address(self) -> Address:
        return self._there


async def test_a_node_of_which_nothing_is_heard_is_given_up(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is cut off: here nobody accepts who connects. Others are there to be asked."""
    monkeypatch.setattr("al_ray.actors.line._PATIENCE", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as silent,
        socket.create_connection(silent.getsockname()),
    ):
        actor = ray.remote(Elsewhere).options(num_cpus=0).remote(Address(*silent.getsockname(), b""))
        with pytest.raises(LineLostError, match="nothing is heard of it"):
            await Line.to(actor)
        ray.kill(actor)


class Planted:
    """Opened, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self._path,)


async def test_whoever_has_not_the_token_is_not_heard(actor: Any, tmp_path: Path) -> None:
    address = await actor.address.remote()
    payload = pickle.dumps(Planted(tmp_path / "opened"))
    for shown in (b"", bytes(32), address.token[:31] + bytes([address.token[31] ^ 1])):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(shown + len(payload).to_bytes(8) + bytes(9) + payload)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
    assert list(tmp_path.iterdir()) == []
    assert repr(address.token) not in repr(address)
