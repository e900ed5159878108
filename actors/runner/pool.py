"""The runner pool: keeps the runners of a run alive, from the driver."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import ray

from al_ray.actors.agent.inherited import overridden
from al_ray.actors.keepers import Keepers
from al_ray.actors.ray_errors import DIED, at_its_start, unwrapped
from al_ray.actors.runner.actor import RUNNER_OPTIONS, Runner
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.actors.store.actor import LEASE_SECONDS
from al_ray.actors.waiting import answered, while_answering
from al_ray.errors import UnresponsiveError

_log = logging.getLogger(__name__)

_START_SECONDS: Final = 600.0
"""In which one starts, with all that its agent imports."""


class RunnerPool:
    """Runs ``count`` runners; one that dies is replaced and its attempts are lost at once."""

    def __init__(self, spec: RunnerSpec, count: int, store: Any, options: Mapping[str, Any]) -> None:
        self._specs = [replace(spec, name=f"{spec.name}-{index}") for index in range(count)]
        self._store = store
        self._actor = ray.remote(Runner).options(**RUNNER_OPTIONS, **options)
        self._runners: dict[str, Any] = {}
        self._keepers = Keepers()

    def start(self) -> None:
        """Start all runners."""
        if names := overridden(self._specs[0].agent, os.environ):
            _log.warning("not given to agents, whose spans go to the run: %s", ", ".join(names))
        self._keepers.start(self._keep(spec) for spec in self._specs)

    def failure(self) -> BaseException | None:
        """What ended a runner for good (an agent that cannot be imported, say), if anything did."""
        return self._keepers.failure()

    async def stop(self) -> None:
        """End all runners; attempts under way are abandoned."""
        await self._keepers.stop()
        for runner in self._runners.values():
            ray.kill(runner)

    async def _keep(self, spec: RunnerSpec) -> None:
        """Replace the runner whenever its process ends. Its own errors are for good, and raised."""
        while True:
            # A name of its own: what the store still does for the dead one is not done for this one.
            named = replace(spec, name=f"{spec.name}-{uuid.uuid4().hex[:8]}")
            runner = self._runners[spec.name] = self._actor.remote(named, self._store)
            try:
                _log.warning("runner %s is replaced: %s", named.name, await _watch(runner))
            except (*DIED, UnresponsiveError) as error:
                if at_its_start(error):
                    raise
                _log.warning("runner %s is replaced: %s", named.name, error)
            ray.kill(runner)
            await self._store.lose.remote(named.name)


async def _watch(runner: Any) -> str:
    """Why it gives itself up. Raises what else ends it."""
    # There is no lease before it is there: it may have to wait for a node.
    await answered(runner.ping.remote(), _START_SECONDS, "it, which starts,")
    who = "it, of whose event loop an agent may not let go,"
    return await while_answering(_run(runner), runner.ping.remote, LEASE_SECONDS, LEASE_SECONDS, who)


async def _run(runner: Any) -> str:
    with unwrapped():
        return await runner.run.remote()
