"""The recipe's hooks around each attempt. One that fails is a failed attempt, never a silent zero."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from al_ray.actors.agent.job import Job
from al_ray.actors.runner.failure import failed, is_cancelled
from al_ray.actors.runner.user_code import UserCode
from al_ray.protocols import Hook
from al_ray.recipe import AgentSection, dotted
from al_ray.types import Attempt, AttemptStatus


class Hooks:
    """Makes ready what the recipe names; raises ``RecipeError``."""

    def __init__(self, agent: AgentSection, user_code: UserCode) -> None:
        self._user_code = user_code
        self._timeout = agent.timeout
        self._before: Hook | None = dotted.load(agent.before, "agent.before") if agent.before else None
        self._after: Hook | None = dotted.load(agent.after, "agent.after") if agent.after else None

    async def before(self, job: Job) -> None:
        """Raises what the hook raises."""
        if self._before is not None:
            await self._user_code.called(self._before, job.printed, job.request, job.attempt)

    async def after(self, job: Job, ended: Attempt) -> Attempt:
        """The attempt as it ends after its hook; an earlier failure stays the first cause."""
        if self._after is None:
            return ended
        try:
            async with asyncio.timeout(self._timeout):
                await self._user_code.called(self._after, job.printed, job.request, ended)
        except BaseException as error:
            if is_cancelled(error):
                raise
            hook = failed(ended, error)
            told = f"agent.after failed:\n\n{hook.error}"
            if ended.status is AttemptStatus.SUCCEEDED:
                return replace(hook, error=told)
            return replace(ended, error=f"{ended.error}\n\n{told}")
        return ended
