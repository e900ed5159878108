"""The recipe's agent in this process, on the main thread: its prints go to the terminal, ``breakpoint()``
stops it there, and what it raises comes as it was raised.

A command, and an agent with an interpreter of its own, are processes here too, as in a run.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from al_ray import tracing
from al_ray.actors.agent import environment
from al_ray.actors.agent.in_process import await_agent, call_agent
from al_ray.actors.agent.isolation import ISOLATIONS
from al_ray.actors.agent.job import Job
from al_ray.recipe import AgentSection, dotted


def is_here(section: AgentSection) -> bool:
    """Whether the agent can run in this process."""
    return section.run is not None and section.python is None and section.requirements is None


def output_of(section: AgentSection, job: Job) -> Any:
    """What the agent returned. Raises what it raised."""
    if not is_here(section):
        return asyncio.run(_elsewhere(section, job))
    assert section.run is not None
    if section.isolation == "process":
        with _variables(environment.variables(job, os.environ)):  # it may read them where it is imported
            call = dotted.load(section.run, "agent.run")
            return _as_in_a_process(call, copy.deepcopy(dict(job.task)), job)
    call = dotted.load(section.run, "agent.run")
    if section.isolation == "async":
        return asyncio.run(await_agent(section, call, job))
    return call_agent(section, call, job)


@contextmanager
def _variables(given: Mapping[str, str]) -> Iterator[None]:
    """Inside, this process has these."""
    before = dict(os.environ)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _as_in_a_process(call: Callable[..., Any], task: Mapping[str, Any], job: Job) -> Any:
    """Plain or async; of the task and the endpoint, or of the task alone."""
    try:
        inspect.signature(call).bind(None, None)
        arguments: tuple[Any, ...] = (task, job.endpoint)
    except TypeError:
        arguments = (task,)
    with tracing.attempt(job.endpoint):
        output = call(*arguments)
        return asyncio.run(_awaited(output)) if inspect.isawaitable(output) else output


async def _awaited(output: Any) -> Any:
    return await output


async def _elsewhere(section: AgentSection, job: Job) -> Any:
    running = await ISOLATIONS[section.isolation](section).start(job)
    try:
        return await running.wait()
    finally:
        await running.end()
