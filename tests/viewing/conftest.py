"""One run, one server and one browser for all tests of the viewer: nothing of it changes a run."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from al_ray.run.folder import RunFolder
from al_ray.viewing.server import LOOPBACK, serve
from tests.support.machines.chromium import chromium
from tests.support.runs.viewed import write_run

Served = Callable[[Path], str]


@pytest.fixture(scope="session")
def viewed_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The first of the two runs in ``outputs/toy``."""
    outputs = tmp_path_factory.mktemp("viewed") / "outputs"
    write_run(tiny_model, outputs, "second")
    return write_run(tiny_model, outputs, "first")


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The address, with its token, at which the runs in ``root`` are shown."""
    told: queue.Queue[str] = queue.Queue()
    loop = asyncio.new_event_loop()
    serving = loop.create_task(serve(root, LOOPBACK, 0, with_token=True, tell=told.put))

    def run() -> None:
        try:
            loop.run_until_complete(serving)
        except asyncio.CancelledError:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield told.get(timeout=20)
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        thread.join(20)


@pytest.fixture(scope="session")
def address(viewed_run: RunFolder) -> Iterator[str]:
    """Of a server of both runs."""
    with served(viewed_run.path.parent.parent) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, whose event loop is no other test's."""
    with chromium() as browser:
        yield browser
