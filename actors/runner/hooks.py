"""The recipe's hooks around each attempt. One that fails is a failed attempt, never a silent zero."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from al_ray.actors.agent.job import Job
from al_ray.actors.runner.failure import failed, is_cancelled
from al_ray.actors.runner.user_code import UserCode
from al_ray.errors import ToldError
from al_ray.protocols import Hook
from al_ray.recipe import AgentSection, dotted
from al_ray.types import HOOK_FAILED, Attempt, AttemptStatus


class Hooks:
    """Makes ready what the recipe names; raises ``RecipeError``."""

    def __init__(self, agent: AgentSection, user_code: UserCode) -> None:
        self._user_code = user_code
        self._timeout = agent.timeout
        self._before: Hook | None = dotted.load(agent.before, "agent.before") if agent.before else None
        self._after: Hook | None = dotted.load(agent.after, "agent.after") if agent.after else None

    async def before(self, job: Job) -> None:
        """Raises ``ToldError`` of what the hook raises."""
        hook = await self._failed(self._before, "agent.before", job, job.attempt, None)
        if hook is not None:
            raise ToldError(hook.error or "", hook.error_class or "")

    async def after(self, job: Job, ended: Attempt) -> Attempt:
        """The attempt as it ends after its hook; an earlier failure stays the first cause."""
        hook = await self._failed(self._after, "agent.after", job, ended, self._timeout)
        if hook is None:
            return ended
        if ended.status is AttemptStatus.SUCCEEDED:
            return hook
        return replace(ended, error=f"{ended.error}\n\n{hook.error}")

    async def _failed(
        self, hook: Hook | None, key: str, job: Job, attempt: Attempt, timeout: float | None
    ) -> Attempt | None:
        """The attempt as the hook, the recipe's ``key``, ends it; None if it does not fail."""
        if hook is None:
            return None
        try:
            async with asyncio.timeout(timeout):
                await self._user_code.called(hook, job.printed, job.request, attempt)
        except BaseException as error:
            if is_cancelled(error):
                raise
            ended = failed(attempt, error)
            return replace(ended, error=f"{key}{HOOK_FAILED}{ended.error}")
        return None
