"""The first process within the walls: it lets the program reach what it may, counts what it uses, and ends
everything there when it ends itself.

A script for Python 3.8 and its standard library: ``python3 -I -S inside.py LIMITS COMMAND...``. LIMITS is
JSON: ``ports`` (of loopback, by the name of the socket beside this file that each leads to); ``grace``, the
seconds between SIGTERM and SIGKILL; and, of all that runs here, ``memory_bytes``, ``processes`` and
``cpu_seconds``, and of one file ``file_bytes``: null where the kernel sees to it.

Being process 1 of its namespace it cannot be killed from within, and with it the kernel ends all the others.
It ends when the program does, with its exit code; when it uses too much; or when ``control.sock``, whose
other end the runner alone holds, is closed there.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

_PR_SET_DUMPABLE = 4
_ROUND = 0.1
_TOO_MUCH = 125
_NOT_STARTED = 127
_UNITS = {"memory_bytes": "bytes of memory", "processes": "processes", "cpu_seconds": "seconds of CPU"}
_HERE = os.path.dirname(os.path.abspath(__file__))


async def main(limits: dict[str, Any], command: list[str]) -> int:
    # Nobody here may trace it; else it could be made to forget the limits.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    control, _ = await asyncio.open_unix_connection(os.path.join(_HERE, "control.sock"))
    for name, port in limits["ports"].items():
        await asyncio.start_server(_relay(os.path.join(_HERE, name)), "127.0.0.1", port)
    ended = asyncio.get_running_loop().create_future()
    program = _start(limits, command)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    reaping = asyncio.ensure_future(_reap(program, ended))
    watching = asyncio.ensure_future(_watch(limits))
    closed = asyncio.ensure_future(control.read())
    await asyncio.wait({ended, watching, closed}, return_when=asyncio.FIRST_COMPLETED)
    if watching.done():
        print("the sandbox ended the agent: " + watching.result(), file=sys.stderr, flush=True)
        return _TOO_MUCH
    if not ended.done():
        os.kill(program, signal.SIGTERM)
        await asyncio.wait({ended}, timeout=limits["grace"])
    reaping.cancel()
    return ended.result() if ended.done() else 128 + signal.SIGKILL


def _start(limits: dict[str, Any], command: list[str]) -> int:
    """Its process id; it leads a session of its own, and comes after us where a core is wanted."""
    program = os.fork()
    if program == 0:
        try:
            os.setsid()
            os.nice(10)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if limits["processes"] is not None:  # root alone may have more
                resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"],) * 2)
            if limits["file_bytes"] is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"],) * 2)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would keep that
                signal.signal(number, signal.SIG_DFL)
            os.execvp(command[0], command)
        except OSError as error:
            said = f"{command[0]} cannot be started in the sandbox: {error.strerror}"
            print(said, file=sys.stderr, flush=True)
        finally:
            os._exit(_NOT_STARTED)
    return program


async def _reap(program: int, ended: asyncio.Future[int]) -> None:
    """Everybody's zombies are its own here."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == program:
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            ended.set_result(code)
            return
        if pid == 0:
            await asyncio.sleep(0.02)


async def _watch(limits: dict[str, Any]) -> str:
    """Says what there is too much of, once there is; where the kernel sees to it, never."""
    if all(limits[name] is None for name in _UNITS):
        await asyncio.Event().wait()
    while True:
        for measure in (_counted, _used):  # those that multiply are not to be looked at one by one
            for name, used in measure().items():
                if limits[name] is not None and used > limits[name]:
                    return f"it used {used:.0f} {_UNITS[name]}; {limits[name]:.0f} are allowed"
        await asyncio.sleep(_ROUND)


def _counted() -> dict[str, float]:
    return {"processes": sum(map(str.isdecimal, os.listdir("/proc"))) - 1}


def _used() -> dict[str, float]:
    """By all but this process: of shared memory each has its own, and what is in files is limited there."""
    ticks = 0
    memory = sum(int(line.split()[14]) for line in _lines("/proc/sysvipc/shm")[1:])
    nameless: dict[int, int] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            times = _lines(f"/proc/{name}/stat")[-1].rpartition(")")[2].split()[11:15]
            if name == "1":
                ticks += sum(map(int, times[2:]))  # of those that have ended
                continue
            ticks += sum(map(int, times))
            status = (line.split() for line in _lines(f"/proc/{name}/status"))
            memory += sum(int(line[1]) * 1024 for line in status if line[0] in ("RssAnon:", "RssShmem:"))
            nameless.update(_nameless_files(f"/proc/{name}/fd"))
        except (FileNotFoundError, ProcessLookupError):  # it has ended just now
            continue
    memory += sum(nameless.values())
    spent = ticks / os.sysconf("SC_CLK_TCK")
    return {"memory_bytes": memory, "cpu_seconds": spent}


def _nameless_files(folder: str) -> dict[int, int]:
    """Bytes of the files in memory (memfd_create(2)) that a process has open, by inode."""
    try:
        paths = [os.path.join(folder, name) for name in os.listdir(folder)]
        found = [os.stat(path) for path in paths if os.readlink(path).startswith("/memfd:")]
    except PermissionError:  # it has made itself private, as agents of keys do
        return {}
    return {each.st_ino: each.st_blocks * 512 for each in found}


def _lines(path: str) -> list[str]:
    with open(path, errors="replace") as file:
        return file.read().splitlines()


def _relay(path: str) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, ours = await asyncio.open_unix_connection(path)
        except OSError:  # the attempt is ending
            writer.close()
            return
        await asyncio.gather(_pump(reader, ours), _pump(theirs, writer))
        ours.close()
        writer.close()

    return serve


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            data = await reader.read(65536)
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:  # one side is gone: so is the other
        writer.close()


if __name__ == "__main__":
    # Without the clean-up of an interpreter: with this process the kernel ends all the others.
    ended_with = asyncio.new_event_loop().run_until_complete(main(json.loads(sys.argv[1]), sys.argv[2:]))
    os._exit(ended_with)
