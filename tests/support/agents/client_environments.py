"""Environments of their own for other people's packages: made once, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest


def python_environment(name: str, packages: Sequence[str]) -> Path:
    """The virtual environment; made by uv if it is not there. Skips where that is not possible."""
    beside = Path(sys.executable).parent  # where tools/install.py puts it
    uv = shutil.which("uv", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed: it makes environments of their own")
    venv = _place(name, [sys.version, *packages])
    _make(
        venv,
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)],
        [uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python"), *packages],
    )
    return venv


def node_environment(name: str, packages: Sequence[str]) -> Path:
    """The folder that holds ``node_modules``; made by npm. Skips as above."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: it makes the environments of Node's clients")
    folder = _place(name, packages)
    _make(folder, [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--silent", *packages])
    return folder


def _place(name: str, parts: Sequence[str]) -> Path:
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "al_ray" / "test-agents" / f"{name}-{digest}"


def _make(folder: Path, *commands: Sequence[str]) -> None:
    if (folder / "made").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"{folder.name} could not be installed: {done.stderr[-500:]}")
    (folder / "made").touch()
