"""Waits for actors, with actors that are only awaited."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from al_ray.actors import waiting
from al_ray.errors import UnresponsiveError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.01)


async def never() -> None:
    await asyncio.Event().wait()


async def test_who_waits_for_a_place_is_waited_for_and_has_so_long_from_its_process_on() -> None:
    looks = itertools.count(1)
    with pytest.raises(UnresponsiveError, match=r"it did not answer for 0\.05 s"):
        await waiting.placed(never(), lambda: next(looks) > 20, 0.05, "it")
    assert next(looks) > 20


async def test_an_answer_or_an_error_that_is_there_is_told_though_no_process_is_known() -> None:
    async def fail() -> None:
        raise ValueError("it cannot be made")

    assert await waiting.placed(asyncio.sleep(0.02, "there"), lambda: False, 9, "it") == "there"
    with pytest.raises(ValueError, match="it cannot be made"):
        await waiting.placed(fail(), lambda: False, 9, "it")


async def test_whoever_waits_may_be_ended() -> None:
    looking = asyncio.Event()

    def look() -> bool:
        looking.set()
        return False

    task = asyncio.create_task(waiting.placed(never(), look, 9, "it"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
