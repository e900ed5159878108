"""A program under a guardian (``al_ray.actors.agent.guardian``), as the runner sees it.

Its end is the end of everything that it has started, whether it ended by itself, was ended, or the
runner's process was killed: the kernel then closes the socket that the guardian watches.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from al_ray.actors.agent import guardian
from al_ray.errors import AgentExitError

_SLACK: Final = 10.0
"""Seconds beyond the grace within which a guardian is done; a process in an uninterruptible sleep of the
kernel may take longer."""


class Output(Protocol):
    """Where what a program prints goes."""

    def write(self, data: bytes, /) -> None: ...


_OPEN_FILES: Final = 65536
"""Where it may; programs inherit it, and some do something for each number that there may be."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is started, and how."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: str | None
    stdin: bytes
    grace: float
    """Seconds between SIGTERM and SIGKILL."""
    files: Sequence[int] = ()
    """More open files that it inherits."""


def allow_open_files() -> None:
    """As this process needs them for thousands of programs, four each: two pipes, a socket, a result."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _OPEN_FILES:
        wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class GuardedProcess:
    """A program under way; make it with ``start``."""

    def __init__(
        self, program: Program, process: subprocess.Popen[bytes], control: asyncio.StreamWriter
    ) -> None:
        self._program = program
        self._starter = process
        self._control = control
        self._closed: list[asyncio.Future[None]] = []
        self._watching: asyncio.Task[int]

    @classmethod
    async def start(cls, program: Program, stdout: Output, stderr: Output) -> GuardedProcess:
        """Raises ``OSError`` if there can be no such process."""
        # In a thread: of hundreds that start at once the loop would see no end, and its leases would.
        process, ours = await asyncio.to_thread(_start, program)
        status, control = await asyncio.open_unix_connection(sock=ours)
        self = cls(program, process, control)
        loop = asyncio.get_running_loop()
        for output, pipe in ((stdout, process.stdout), (stderr, process.stderr)):
            assert pipe is not None
            _, reading = await loop.connect_read_pipe(partial(_Reading, output), pipe)
            self._closed.append(reading.closed)
        self._watching = asyncio.create_task(self._watch(status))
        return self

    async def wait(self) -> int:
        """Its exit code; of a signal, the negative number. Nothing of it is left."""
        return await asyncio.shield(self._watching)

    async def end(self) -> None:
        """SIGTERM and, after the grace, SIGKILL, to all that is left of it."""
        if not self.ended:
            self._control.write_eof()
            await asyncio.wait({self._watching}, timeout=self._program.grace + _SLACK)

    @property
    def ended(self) -> bool:
        return self._watching.done()

    async def _watch(self, status: asyncio.StreamReader) -> int:
        told = await status.read()
        self._control.close()
        # Whoever held the other ends is gone; only an orphan of a killed guardian could still hold them.
        await asyncio.wait(self._closed, timeout=1.0)
        self._starter.wait()  # it has long ended, having forked the guardian
        if not told:
            raise AgentExitError(f"the guardian of {self._program.command[0]} was killed")
        return os.waitstatus_to_exitcode(int(told))


class _Reading(asyncio.Protocol):
    """Hands on what comes through a pipe."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._output.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set_result(None)


def _start(program: Program) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The guardian's starter, and our end of the socket: with that, the program ends."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            return _popen(program, theirs.fileno()), ours
    except BaseException:
        ours.close()
        raise


def _popen(program: Program, control: int) -> subprocess.Popen[bytes]:
    guard = [sys.executable, "-I", "-S", guardian.__file__, str(program.grace), str(control)]
    with tempfile.TemporaryFile() as stdin:
        stdin.write(program.stdin)
        stdin.seek(0)
        return subprocess.Popen(
            [*guard, *program.command],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=program.environment,
            cwd=program.folder,
            pass_fds=(control, *program.files),
            start_new_session=True,
        )
