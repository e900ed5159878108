"""An image with ``python3`` and a shell, made of this machine's files: no registry need be reached."""

from __future__ import annotations

import functools
import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

NAME = "localhost/al-ray-test:latest"
SYSTEM_PYTHON = "/usr/bin/python3"
PROGRAMS = (SYSTEM_PYTHON, "/usr/bin/sh")


@functools.cache
def podman_image() -> str | None:
    """Its name; None where Podman does not run it."""
    if shutil.which("podman") is None or not Path(SYSTEM_PYTHON).exists():
        return None
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path in _files():
            archive.add(path, path.lstrip("/"), recursive=False)
        for folder, mode in (
            ("tmp", 0o1777),
            ("proc", 0o755),
            ("dev", 0o755),
            ("sys", 0o755),
            ("etc", 0o755),
        ):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
    for command, given in (
        (["podman", "import", "-", NAME], made.getvalue()),
        (["podman", "run", "--rm", "--network", "none", NAME, "python3", "-c", "import json"], None),
    ):
        if subprocess.run(command, input=given, capture_output=True, check=False).returncode:
            return None
    return NAME


def _files() -> list[str]:
    """The programs, what they are linked to, and Python's library."""
    ask = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    library = Path(_said([SYSTEM_PYTHON, "-c", ask]).strip())
    modules = [str(path) for path in library.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    extensions = [path for path in modules if path.endswith(".so")]
    linked = re.findall(r"(/\S+) \(0x", "".join(_said(["ldd", path]) for path in (*PROGRAMS, *extensions)))
    programs = [*PROGRAMS, str(Path(SYSTEM_PYTHON).resolve()), str(Path("/usr/bin/sh").resolve())]
    links = [f"/{name}" for name in ("bin", "lib", "lib64") if Path("/", name).is_symlink()]
    wanted = {_below_usr(path) for path in (*linked, *programs)}
    return [*links, *sorted({*wanted, *(str(Path(path).resolve()) for path in wanted), *modules})]


def _below_usr(path: str) -> str:
    """``/lib/...`` where ``/lib`` is a link to ``/usr/lib``."""
    first = Path("/", Path(path).parts[1])
    return str(Path("/", first.readlink(), *Path(path).parts[2:])) if first.is_symlink() else path


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
