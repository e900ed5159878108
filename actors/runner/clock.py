"""An attempt's clock: it stands still while there was no engine to answer its agent's calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import copy_context
from functools import partial
from http.client import HTTPException
from typing import Final
from urllib.request import urlopen

import orjson

from al_ray.actors.agent.in_process import InThread
from al_ray.actors.agent.outcome import Outcome

_ANSWER_SECONDS: Final = 5.0


async def expire(deadline: asyncio.Timeout, seconds: float, base_url: str) -> None:
    """Let ``deadline`` expire once an attempt that begins now has had so many seconds, not counting those in
    which its gateway, at ``base_url``, had no engine."""
    loop = asyncio.get_running_loop()
    began, allowed = loop.time(), seconds
    while (left := began + allowed - loop.time()) > 0:
        await asyncio.sleep(left)
        allowed = seconds + await absent(base_url, loop.time() - began)
    deadline.reschedule(loop.time())


async def absent(base_url: str, seconds: float) -> float:
    """How many of the last so many seconds there was no engine; 0 where the gateway does not say."""
    try:
        # In a thread of its own: agents and hooks that hang may hold all those that others share.
        asked = InThread(partial(Outcome.of, _ask, f"{base_url}/absences"), copy_context())
        return within(await asked.wait(), seconds)
    # No gateway; or another server of models, whose answer may be anything.
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return 0.0


def within(absences: Iterable[tuple[float, float]], seconds: float) -> float:
    """What of ``absences``, from so many seconds ago to so many, lies in the last ``seconds``."""
    return sum(max(0.0, min(began, seconds) - ended) for began, ended in absences)


def _ask(url: str) -> list[tuple[float, float]]:
    with urlopen(url, timeout=_ANSWER_SECONDS) as answer:
        absences: list[tuple[float, float]] = orjson.loads(answer.read())["absences"]
        return absences
