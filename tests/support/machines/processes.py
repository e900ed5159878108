"""Commands that a test starts, together with every process that they start in turn.

What descends from a command carries a mark in its environment, whatever session or process group it
has moved to: so a test can tell that nothing is left, and can end what is.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import TracebackType

import pytest

ROOT = Path(__file__).resolve().parents[3]
STARTUP = Path(__file__).resolve().parent / "startup"
"""For ``PYTHONPATH``: what every Python that a test starts begins with."""
_MARK = "AL_RAY_TEST_COMMAND"
_DROPPED = ("RAY_ADDRESS", "RAY_AUTH_MODE", "AL_RAY_DATA", "WANDB_MODE", "PYTHONDONTWRITEBYTECODE")
"""Variables that would lead a command to another cluster or to data."""


class Command:
    """``python -m ARGUMENTS`` in ``folder``, in a session of its own; ends with everything it started.
    ``inside`` is a command that becomes it, elsewhere. Python collects garbage as rarely as in all tests,
    unless it is to be ``as_users`` have it."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        folder: Path,
        inside: Sequence[str] = (),
        *,
        as_users: bool = False,
        **variables: str,
    ) -> None:
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        self.log = folder / f"command-{self._mark[-8:]}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*inside, sys.executable, "-m", *map(str, arguments)],
                cwd=folder,
                env=_environment(variables, () if as_users else [STARTUP]) | dict([self._mark.split("=")]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Ignored in whatever a shell runs in the background, and inherited.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in self.alive():
            _signal(pid, signal.SIGKILL)
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self, seconds: float = 300) -> int:
        """The exit code."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"no end after {seconds} s:\n{self.output}") from error

    def wait_until(self, happened: Callable[[], bool], seconds: float = 300, what: str = "it") -> None:
        """Returns when it has; the command must not end before. ``what`` says what is waited for. To look
        takes a tenth of a processor at most."""
        deadline, looked = time.monotonic() + seconds, time.process_time()
        while not happened():
            looking = time.process_time() - looked
            assert self._process.poll() is None, f"ended with {self._process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"{what}: not after {seconds} s:\n{self.output}"
            time.sleep(min(1.0, max(0.1, 10 * looking)))
            looked = time.process_time()

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """What a batch system does."""
        self._process.terminate()

    def kill(self) -> None:
        """With all that it has started, as a batch system does."""
        for pid in self.alive():
            _signal(pid, signal.SIGKILL)

    def alive(self) -> list[int]:
        """The processes that descend from the command and have not ended.

        Ray's agents give themselves a title that covers the mark: they are known by their parents."""
        mark = self._mark.encode()
        pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()]
        found = {pid for pid in pids if mark in _read(Path(f"/proc/{pid}/environ")).split(b"\0")}
        parents = {pid: _parent(pid) for pid in pids}
        while children := {pid for pid in pids if parents[pid] in found and pid not in found}:
            found |= children
        return [pid for pid in found if not has_ended(pid)]

    def wait_until_nothing_is_left(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while pids := self.alive():
            assert time.monotonic() < deadline, f"left after {seconds} s: {[*map(process_name, pids)]}"
            time.sleep(0.2)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Inside, no file grows beyond so many bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def run(arguments: Sequence[str | Path], folder: Path, **variables: str) -> tuple[int, str]:
    """Exit code and output of a command that ends by itself."""
    with Command(arguments, folder, **variables) as command:
        code = command.wait()
        return code, command.output


def run_here(arguments: Sequence[str | Path], folder: Path) -> tuple[int, str]:
    """Exit code and output of ``al-ray ARGUMENTS``, in this process: of a command that starts nothing, nearly
    all of the time goes into imports."""
    from al_ray.cli import app

    told = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(told):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["al-ray", *map(str, arguments)])
        patch.setattr(sys, "path", [*sys.path])
        for name in _DROPPED:
            patch.delenv(name, raising=False)
        with pytest.raises(SystemExit) as ended:
            app.main()
    return int(ended.value.code or 0), told.getvalue()


def process_name(pid: int) -> str:
    """Its command line, or what it calls itself."""
    return _read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ").decode(errors="replace").strip()


def is_called(pid: int, title: str) -> bool:
    """Whether that is its title, to which Ray adds the method that an actor is in."""
    name = process_name(pid)
    return name == title or name.startswith((f"{title}.", f"{title}("))


def has_ended(pid: int) -> bool:
    """It is gone, or a zombie."""
    told = _read(Path(f"/proc/{pid}/stat"))
    return not told or b") Z " in told


def _parent(pid: int) -> int:
    told = _read(Path(f"/proc/{pid}/stat"))
    return int(told.rpartition(b")")[2].split()[1]) if told else 0


def wait_until_ended(*pids: int, seconds: float = 60) -> None:
    """The end of a process that is killed is on its way."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if not has_ended(pid)]:
        assert time.monotonic() < deadline, f"left after {seconds} s: {[*map(process_name, left)]}"
        time.sleep(0.1)


def _environment(variables: Mapping[str, str], first: Sequence[Path]) -> dict[str, str]:
    """This process's, with al_ray importable and nothing that would lead to another cluster or to data; then
    ``variables``, and what is ``first`` in Python's path."""
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    chosen = kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | variables
    return chosen | {"PYTHONPATH": os.pathsep.join([*map(str, first), chosen["PYTHONPATH"]])}


def _read(path: Path) -> bytes:
    """Of a process that may end at any moment; a zombie has no environment left."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
