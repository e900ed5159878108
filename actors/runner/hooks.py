"""The recipe's hooks around each attempt. One that fails is a failed attempt, never a silent zero."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from al_ray.actors.agent.job import Job
from al_ray.actors.agent.outcome import Outcome
from al_ray.actors.runner.failure import failed, is_cancelled
from al_ray.protocols import Hook
from al_ray.recipe import AgentSection, dotted
from al_ray.types import Attempt, AttemptStatus


class Hooks:
    """Makes ready what the recipe names; raises ``RecipeError``."""

    def __init__(self, agent: AgentSection) -> None:
        self._timeout = agent.timeout
        self._before: Hook | None = dotted.load(agent.before, "agent.before") if agent.before else None
        self._after: Hook | None = dotted.load(agent.after, "agent.after") if agent.after else None

    async def before(self, job: Job) -> None:
        """Raises what the hook raises."""
        if self._before is not None:
            await _call(self._before, job, job.attempt)

    async def after(self, job: Job, ended: Attempt) -> Attempt:
        """The attempt as it ends after its hook; an earlier failure stays the first cause."""
        if self._after is None:
            return ended
        try:
            async with asyncio.timeout(self._timeout):
                await _call(self._after, job, ended)
        except BaseException as error:
            if is_cancelled(error):
                raise
            hook = failed(ended, error)
            told = f"agent.after failed:\n\n{hook.error}"
            if ended.status is AttemptStatus.SUCCEEDED:
                return replace(hook, error=told)
            return replace(ended, error=f"{ended.error}\n\n{told}")
        return ended


async def _call(hook: Hook, job: Job, attempt: Attempt) -> None:
    """In a thread, for a plain function may block; what that returns is awaited here, if need be."""
    context = job.printed.context()
    called = await asyncio.to_thread(context.run, Outcome.of, hook, job.request, attempt)
    waiting = called.get()
    if waiting is not None:
        (await asyncio.create_task(Outcome.awaited(waiting), context=context)).get()
