"""Agents in the runner's own process: in its event loop, or each in a thread.

They share its interpreter and its packages, which makes them cheap: hundreds can wait at once. What
they record with ``al_ray.tracing`` belongs to their attempts, and has been sent when they end.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable
from contextvars import Context
from functools import partial
from threading import Thread
from typing import Any

from al_ray import tracing
from al_ray.actors.agent.job import Job
from al_ray.actors.agent.outcome import Outcome
from al_ray.recipe import AgentSection, dotted


async def await_agent(section: AgentSection, call: Callable[..., Any], job: Job) -> Any:
    """What an async agent returns. Raises what it raises."""
    result = call(copy.deepcopy(dict(job.task)), job.endpoint)
    if not inspect.isawaitable(result):
        cure = "for a plain function set agent.isolation to thread or process"
        raise TypeError(f"{section.run} is not async: it returned {result!r}; {cure}")
    async with tracing.attempt(job.endpoint):
        return await result


def call_agent(section: AgentSection, call: Callable[..., Any], job: Job) -> Any:
    """What a plain agent returns. Raises what it raises."""
    with tracing.attempt(job.endpoint):
        result = call(copy.deepcopy(dict(job.task)), job.endpoint)
    if inspect.isawaitable(result):
        raise TypeError(f"{section.run} is async: set agent.isolation to async or process")
    return result


class AsyncAgent:
    """An async callable; each attempt is a task of the runner's event loop."""

    def __init__(self, section: AgentSection) -> None:
        self._call = _load(section)
        self._section = section

    async def start(self, job: Job) -> InTask:
        running = await_agent(self._section, self._call, job)
        task = asyncio.create_task(Outcome.awaited(running), context=job.printed.context())
        return InTask(task, self._section.grace)


class InTask:
    """A call in a task of its own, under way, which has ``grace`` seconds to heed its cancellation."""

    def __init__(self, task: asyncio.Task[Outcome], grace: float) -> None:
        self._task = task
        self._grace = grace

    async def wait(self) -> Any:
        await asyncio.wait({self._task})
        return self._task.result().get()

    async def end(self) -> None:
        """It may suppress its cancellation, or take its time over it."""
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=self._grace)

    @property
    def ended(self) -> bool:
        return self._task.done()


class ThreadAgent:
    """A plain callable; each attempt has a thread."""

    def __init__(self, section: AgentSection) -> None:
        self._call = _load(section)
        self._section = section

    async def start(self, job: Job) -> InThread:
        run = partial(Outcome.of, call_agent, self._section, self._call, job)
        return InThread(run, job.printed.context())


class InThread:
    """A call in a thread of its own, under way."""

    def __init__(self, run: Callable[[], Outcome], context: Context) -> None:
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[Outcome] = self._loop.create_future()
        # A daemon: one that hangs does not keep the runner's process from ending.
        Thread(target=lambda: self._report(context.run(run)), daemon=True).start()

    async def wait(self) -> Any:
        await asyncio.wait({self._outcome})
        return self._outcome.result().get()

    async def end(self) -> None:
        """Nothing can be done about a thread."""

    @property
    def ended(self) -> bool:
        return self._outcome.done()

    def _report(self, outcome: Outcome) -> None:
        self._loop.call_soon_threadsafe(self._outcome.set_result, outcome)


def _load(section: AgentSection) -> Callable[..., Any]:
    assert section.run is not None
    return dotted.load(section.run, "agent.run")
