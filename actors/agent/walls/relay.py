"""The way out of the walls, as the runner holds it: Unix sockets in a folder of one attempt's own, each of
which leads to one server and no other, and one that is the attempt's leash.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from al_ray.actors.agent.walls import inside

_Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]
_CONNECTIONS: Final = 64
"""Of one attempt at once; more wait."""
_FIRST_PORT: Final = 8001


class Relay:
    """Of one attempt; ``folder`` is to be seen within the walls, beside nothing else of ours."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        """``urls`` of the servers that may be reached, by name."""
        self._targets = {f"{name}.sock": urlsplit(url) for name, url in urls.items()}
        self.folder = Path(tempfile.mkdtemp(prefix="al_ray-wall-"))
        self.folder.chmod(0o755)
        shutil.copy(inside.__file__, self.folder / "inside.py")
        (self.folder / "inside.py").chmod(0o644)
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_CONNECTIONS)
        self._leash: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def ports(self) -> dict[str, int]:
        """Where each socket's server is within the walls, on loopback."""
        return {socket: _FIRST_PORT + index for index, socket in enumerate(self._targets)}

    def inner_url(self, name: str) -> str:
        """The URL of that server within the walls."""
        socket = f"{name}.sock"
        return self._targets[socket]._replace(netloc=f"127.0.0.1:{self.ports[socket]}").geturl()

    async def start(self) -> None:
        await self._listen("control.sock", self._hold)
        for socket in self._targets:
            await self._listen(socket, self._server_of(socket))

    async def end(self, seconds: float) -> None:
        """Let go of the leash, and wait for the end of all within the walls, but not longer."""
        if self._leash is not None:
            reader, writer = self._leash
            with suppress(OSError):
                writer.write_eof()
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(seconds):
                    await reader.read()
            writer.close()

    def close(self) -> None:
        """Nothing gets through any more."""
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.cancel()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _listen(self, socket: str, serve: _Serve) -> None:
        path = self.folder / socket
        self._servers.append(await asyncio.start_unix_server(serve, path))
        os.chmod(path, 0o666)  # within the walls they may be somebody else's

    def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The first to come is ``inside``; it comes before the program is there."""
        if self._leash is None:
            self._leash = reader, writer
        else:
            writer.close()

    def _server_of(self, socket: str) -> _Serve:
        target = self._targets[socket]

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            try:
                async with self._room:
                    theirs, ours = await asyncio.open_connection(target.hostname, target.port)
                    try:
                        await asyncio.gather(_pump(reader, ours), _pump(theirs, writer))
                    finally:
                        ours.close()
            except OSError:  # nobody listens there: nor does anybody here
                pass
            finally:
                writer.close()

        return serve


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:  # one side is gone: so is the other
        writer.close()
