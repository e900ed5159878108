"""Waits that end: who is asked answers in time, or an error names who did not.

A process that is stopped, or whose machine is cut off, keeps its connections for long: of itself, no error
ever comes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from al_ray.errors import UnresponsiveError

_Answer = TypeVar("_Answer")

_LOOK_SECONDS: Final = 1.0


async def answered(asked: Awaitable[_Answer], seconds: float, who: str) -> _Answer:
    """The answer. Raises ``UnresponsiveError`` after ``seconds``; whatever comes later is nobody's."""
    answer = asyncio.ensure_future(asked)
    # No ``asyncio.timeout``: what an actor raises may be a TimeoutError too.
    try:
        done, _ = await asyncio.wait({answer}, timeout=seconds)
    finally:
        answer.cancel()
    if not done:
        raise UnresponsiveError(silence(who, seconds))
    return answer.result()


async def placed(
    asked: Awaitable[_Answer], has_process: Callable[[], bool], seconds: float, who: str
) -> _Answer:
    """The first answer of an actor that may have to wait for its place, for as long as that takes. Raises
    ``UnresponsiveError`` when it has had a process for ``seconds``."""
    waiting = asyncio.ensure_future(asked)
    try:
        while not waiting.done() and not await asyncio.to_thread(has_process):
            await asyncio.wait({waiting}, timeout=_LOOK_SECONDS)
        return await answered(waiting, seconds, who)
    finally:
        waiting.cancel()


async def started(
    start: Callable[[], Awaitable[_Answer]],
    ping: Callable[[], Awaitable[object]],
    has_process: Callable[[], bool],
    every: float,
    seconds: float,
    who: str,
) -> _Answer:
    """What an actor's ``start`` comes to: it is ``placed`` first, and answers ``ping`` all the while."""
    who = f"{who}, which starts,"
    await placed(ping(), has_process, seconds, who)
    return await while_answering(start(), ping, every, seconds, who)


async def all_started(starting: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """What all return, which begin at once. Raises what one of them raises, when the others have been
    cancelled and are done: else one that is ended as it starts would be followed by another."""
    tasks = [asyncio.create_task(each) for each in starting]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def silence(who: str, seconds: float) -> str:
    """What is said of whoever did not answer for so long."""
    return f"{who} did not answer for {seconds:g} s: it is stopped, stuck or out of reach"


async def while_answering(
    running: Awaitable[_Answer], ping: Callable[[], Awaitable[object]], every: float, seconds: float, who: str
) -> _Answer:
    """What ``running`` comes to, as long as ``ping``, asked ``every`` so many seconds, is answered within
    ``seconds``; raises ``UnresponsiveError`` once it is not."""
    waiting = asyncio.ensure_future(running)
    try:
        while True:
            await asyncio.wait({waiting}, timeout=every)
            if waiting.done():
                return waiting.result()
            await answered(ping(), seconds, who)
    finally:
        waiting.cancel()
