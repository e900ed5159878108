"""The guardian of one agent's program: nothing that the program has started outlives it, or the runner.

A script that needs only the standard library: ``python -I -S guardian.py GRACE CONTROL COMMAND...``.
CONTROL is the number of an inherited socket whose other end the runner alone holds. Once that end is
shut down, because the runner wants so or because it was killed, the program and all that it leaves get
SIGTERM and, after GRACE seconds, SIGKILL. The guardian ends when no process that descends from the
program is left, and has then written the program's wait status to CONTROL.

It is the subreaper of its descendants (prctl(2)): those whose parents die become its own children, in
whatever session or group they are. So where ``waitpid`` finds no child, nobody is left.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_NOT_STARTED = 127
"""A shell's exit code for what cannot be executed."""
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""By which the guardian is told to end the program; and the program, to end."""
_ROUND = 0.05
"""Seconds between two rounds of signals: each round's orphans are the children of the next."""


class _Family:
    """The program and all that descends from it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._woken, wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGCHLD, *_ENDING):
            signal.signal(number, lambda *_: None)
        self.status: int | None = None
        """The program's own, once it has ended."""
        # What comes before the program is one waits until it is: its copy of these handlers would swallow it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        self._program = os.fork()
        if self._program == 0:
            _execute(command)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    def wait(self, control: int) -> None:
        """Until the program has ended, or the runner or a signal asks for the end of it."""
        while self.reap() and self.status is None:
            ready = _readable(None, self._woken, control)
            if control in ready or set(self._signals()) - {signal.SIGCHLD}:
                return

    def end(self, grace: float) -> None:
        """Returns when nobody is left."""
        deadline = time.monotonic() + grace
        asked: set[int] = set()
        while self.reap() and (left := deadline - time.monotonic()) > 0:
            self._signal(signal.SIGTERM, asked)
            _readable(min(left, _ROUND), self._woken)
            self._signals()
        while self.reap():
            self._signal(signal.SIGKILL, set())
            _readable(_ROUND, self._woken)
            self._signals()

    def reap(self) -> bool:
        """Whether anybody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._program:
                self.status = status

    def _signal(self, number: int, sent: set[int]) -> None:
        """Once to each child, and to all of the group that it is in, which join ``sent``; to none of those
        again: a second SIGTERM may end what the first has them do."""
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            for pid in map(int, file.read().split()):
                group = os.getpgid(pid)
                if sent & {pid, group}:
                    continue
                sent.add(pid)
                try:
                    if group == os.getpgrp():  # as it is until the program has a session of its own
                        os.kill(pid, number)
                    else:
                        sent.add(group)
                        os.killpg(group, number)
                except PermissionError:  # by setuid it has become another user's
                    continue
                except ProcessLookupError:  # it has left that group meanwhile: the next round finds it
                    sent.difference_update({pid, group})

    def _signals(self) -> bytes:
        try:
            return os.read(self._woken, 4096)
        except BlockingIOError:
            return b""


def _readable(seconds: float | None, *files: int) -> list[int]:
    """Those that have something to read, or have ended; as select would, but of any number."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    return [file for file, _ in poll.poll(None if seconds is None else seconds * 1000)]


def _execute(command: Sequence[str]) -> None:
    """Become the program, in a session of its own; it dies with the guardian."""
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # Python ignores the first two, and exec would keep that.
        for number in (signal.SIGPIPE, signal.SIGXFSZ, *_ENDING):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        os.execvp(command[0], list(command))
    except OSError as error:
        told = f"{command[0]}, or what its first line names, cannot be started: {error.strerror}"
        print(told, file=sys.stderr, flush=True)
    finally:
        os._exit(_NOT_STARTED)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def adopt_orphans() -> None:
    """Become the parent of those descendants whose own parents die."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def main(grace: str, control: str, *command: str) -> None:
    if os.fork():
        return  # the guardian is no child of the runner's: Ray kills those with SIGKILL when it ends an actor
    runner = int(control)
    os.set_inheritable(runner, False)
    adopt_orphans()
    family = _Family(command)
    family.wait(runner)
    family.end(float(grace))
    try:
        os.write(runner, str(family.status).encode())
    except BrokenPipeError:  # nobody is left to be told
        return


if __name__ == "__main__":
    main(*sys.argv[1:])
