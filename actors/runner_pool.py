"""The runner pool: keeps the runners of a run alive, from the driver."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError

from al_ray.actors.runner import RUNNER_OPTIONS, Runner, RunnerSpec

_log = logging.getLogger(__name__)


class RunnerPool:
    """Runs ``count`` runners; one that dies is replaced and its attempts are lost at once."""

    def __init__(self, spec: RunnerSpec, count: int, store: Any, options: Mapping[str, Any]) -> None:
        self._specs = [replace(spec, name=f"{spec.name}-{index}") for index in range(count)]
        self._store = store
        self._actor = ray.remote(Runner).options(**RUNNER_OPTIONS, **options)
        self._runners: dict[str, Any] = {}
        self._keepers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all runners."""
        self._keepers = [asyncio.create_task(self._keep(spec)) for spec in self._specs]

    def failure(self) -> BaseException | None:
        """What ended a runner for good (an agent that cannot be imported, say), if anything did."""
        ended = (keeper for keeper in self._keepers if keeper.done() and not keeper.cancelled())
        return next((error for keeper in ended if (error := keeper.exception())), None)

    async def stop(self) -> None:
        """End all runners; attempts under way are abandoned."""
        for keeper in self._keepers:
            keeper.cancel()
        for runner in self._runners.values():
            ray.kill(runner)

    async def _keep(self, spec: RunnerSpec) -> None:
        while True:
            runner = self._runners[spec.name] = self._actor.remote(spec, self._store)
            try:
                await runner.run.remote()
                return
            except RayActorError as error:
                if "Error in constructor" in str(error) or getattr(error, "cause", None):
                    raise
                _log.warning("runner %s died and is replaced: %s", spec.name, error)
                await self._store.lose.remote(spec.name)
