"""A line to an actor: its methods called over a socket of its own, at a fraction of what Ray's calls cost.

Frames are pickles, so whoever does not begin with the actor's token is heard no further; the token is told to
whoever can ask the actor by Ray. Ray also says when the actor is gone: a socket alone does not tell of a node
that was cut off.
"""

from __future__ import annotations

import asyncio
import pickle
import secrets
import struct
import traceback
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count
from typing import Any, Final

import ray
from ray.exceptions import RayError

from al_ray.errors import AlRayError, in_a_line

_HEAD: Final = struct.Struct("!QQB")
"""Of a frame: bytes that follow, the number of the call, what it is."""
_TOKEN_BYTES: Final = 32
_PATIENCE: Final = 10.0
"""Seconds until one who connects must have shown the token, and until the actor's node must have answered:
one that is cut off would be tried for two minutes, while others are there."""


class LineLostError(AlRayError):
    """The actor is gone, or the way to it, before it answered."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an actor listens, and what opens it."""

    host: str
    port: int
    token: bytes = field(repr=False)


class _Kind(IntEnum):
    # A caller's.
    ASK = 0
    """A method and its arguments: one answer is wanted."""
    ITERATE = 1
    """... that yields: all of its items are."""
    CANCEL = 2
    # An actor's.
    ITEM = 3
    DONE = 4
    FAILED = 5


class OnLine:
    """An asyncio actor whose methods can be called over lines, with what Ray's calls can carry."""

    _listening: asyncio.Task[tuple[asyncio.Server, Address]] | None = None
    _under_way: int = 0

    async def address(self) -> Address:
        """Where it listens, from the first time that this is asked."""
        if self._listening is None:
            self._listening = asyncio.create_task(_listen(self))
        _, address = await asyncio.shield(self._listening)
        return address

    async def attend(self) -> None:
        """Never returns: the call fails when the actor is gone."""
        await asyncio.Event().wait()

    async def under_way(self) -> int:
        """Calls over lines that have no answer yet."""
        return self._under_way

    async def node(self) -> str:
        """The id of Ray's node that it is on."""
        return str(ray.get_runtime_context().get_node_id())


async def _listen(actor: OnLine) -> tuple[asyncio.Server, Address]:
    token = secrets.token_bytes(_TOKEN_BYTES)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Caller(actor, reader, writer).serve(token)
        finally:
            writer.close()

    host = ray.util.get_node_ip_address()
    server = await asyncio.start_server(serve, host, 0)
    return server, Address(host, server.sockets[0].getsockname()[1], token)


class _Caller:
    """Who asks, as the actor sees it."""

    def __init__(self, actor: OnLine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._actor = actor
        self._reader = reader
        self._writer = writer
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self, token: bytes) -> None:
        """Until the line ends, and what was asked over it with that."""
        try:
            async with asyncio.timeout(_PATIENCE):
                shown = await self._reader.readexactly(_TOKEN_BYTES)
            if not secrets.compare_digest(shown, token):
                return
            while True:
                self._take(*await _read(self._reader))
        except (asyncio.IncompleteReadError, OSError, TimeoutError):  # the caller is gone, or no caller
            return
        finally:
            for task in self._tasks.values():
                task.cancel()

    def _take(self, number: int, kind: int, payload: bytes) -> None:
        if kind == _Kind.CANCEL:
            if task := self._tasks.get(number):
                task.cancel()
            return
        self._tasks[number] = task = asyncio.create_task(self._answer(number, kind, payload))
        task.add_done_callback(lambda _: self._tasks.pop(number))

    async def _answer(self, number: int, kind: int, payload: bytes) -> None:
        self._actor._under_way += 1
        try:
            name, arguments = pickle.loads(payload)
            method = getattr(self._actor, name)
            last = None
            if kind == _Kind.ITERATE:
                async with aclosing(method(*arguments)) as items:
                    async for item in items:
                        _write(self._writer, number, _Kind.ITEM, item)
                        await self._writer.drain()
            else:
                last = await method(*arguments)
            _write(self._writer, number, _Kind.DONE, last)
        except Exception as error:
            if not self._writer.is_closing():
                _write(self._writer, number, _Kind.FAILED, _told(error))
        finally:
            self._actor._under_way -= 1


def _told(error: Exception) -> Exception:
    """The error as it is raised at the caller's: ours as itself, another's with where it was."""
    if isinstance(error, AlRayError):
        return error
    return RuntimeError("".join(traceback.format_exception(error)))


class Line:
    """A caller's end; ``to`` makes one. It carries many calls at once; one that is cancelled here is at the
    actor, too."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, attended: Any) -> None:
        self._writer = writer
        self._numbers = count()
        self._under_way: dict[int, asyncio.Queue[tuple[int, bytes]]] = {}
        self._attended = attended
        self._ended = False
        self._watching = [asyncio.create_task(each) for each in (self._read(reader), self._attend())]

    @classmethod
    async def to(cls, actor: Any) -> Line:
        """A line to an actor that is ``OnLine``. Raises ``LineLostError`` where there is no way to it, and
        what Ray raises of an actor that is gone."""
        address: Address = await actor.address.remote()
        try:
            async with asyncio.timeout(_PATIENCE):
                reader, writer = await asyncio.open_connection(address.host, address.port)
        except OSError as error:
            raise LineLostError(f"{address}: {str(error) or 'nothing is heard of it'}") from error
        writer.write(address.token)
        return cls(reader, writer, actor.attend.remote())

    @property
    def lost(self) -> bool:
        """Whether nothing can be asked any more: also of a socket that broke, before it has been heard of."""
        return self._ended or self._writer.is_closing()

    async def ask(self, method: str, *arguments: Any) -> Any:
        """What the method returns. Raises what it raises, or ``LineLostError``."""
        async with aclosing(self._exchange(_Kind.ASK, method, arguments)) as answers:
            [answer] = await anext(answers)
            return answer

    def items(self, method: str, *arguments: Any) -> AsyncGenerator[list[Any], None]:
        """What the method yields, together what has come since; close it to stop the actor's work on it.
        Raises as ``ask`` does."""
        return self._exchange(_Kind.ITERATE, method, arguments)

    def close(self) -> None:
        self._end("it was closed")

    async def _exchange(
        self, kind: _Kind, method: str, arguments: tuple[Any, ...]
    ) -> AsyncGenerator[list[Any], None]:
        """What comes back of a call."""
        if self.lost:
            raise LineLostError("it ended before the call")
        number, ended = next(self._numbers), False
        answers = self._under_way[number] = asyncio.Queue()
        try:
            _write(self._writer, number, kind, (method, arguments))
            while not ended:
                frames = [await answers.get()]
                while not answers.empty():
                    frames.append(answers.get_nowait())
                last, _ = frames[-1]
                ended = last != _Kind.ITEM
                values = [pickle.loads(payload) for _, payload in frames]
                error: Any = values.pop() if last == _Kind.FAILED else None
                if last == _Kind.DONE and kind == _Kind.ITERATE:
                    del values[-1]  # nothing: all has come
                if values:
                    yield values
                if error is not None:
                    raise error
        finally:
            del self._under_way[number]
            if not (ended or self.lost):
                _write(self._writer, number, _Kind.CANCEL, None)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                number, kind, payload = await _read(reader)
                if (answers := self._under_way.get(number)) is not None:  # else it was cancelled
                    answers.put_nowait((kind, payload))
        self._end("the actor's end was closed")

    async def _attend(self) -> None:
        try:
            await self._attended
        except RayError as error:
            self._end(in_a_line(error))

    def _end(self, why: str) -> None:
        if self._ended:
            return
        self._ended = True
        lost = pickle.dumps(LineLostError(why))
        for answers in self._under_way.values():
            answers.put_nowait((_Kind.FAILED, lost))
        for task in self._watching:
            if task is not asyncio.current_task():
                task.cancel()
        ray.cancel(self._attended)
        self._writer.close()


async def _read(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    size, number, kind = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    return number, kind, await reader.readexactly(size)


def _write(writer: asyncio.StreamWriter, number: int, kind: _Kind, value: object) -> None:
    payload = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    writer.write(_HEAD.pack(len(payload), number, kind) + payload)
