"""Programs within walls (``al_ray.actors.agent.walls``): commands that run what a model writes."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from al_ray.actors.agent import environment as agent_environment
from al_ray.actors.agent.guarded_process import GuardedProcess, Program
from al_ray.actors.agent.inherited import inherited
from al_ray.actors.agent.job import MAX_RESULT_BYTES, Job
from al_ray.actors.agent.printed import LastLine
from al_ray.actors.agent.sub_process import RunningCommand, task_bytes
from al_ray.actors.agent.walls.relay import Relay
from al_ray.actors.agent.walls.wall import RELAY_FOLDER, Within, wall
from al_ray.recipe import AgentSection
from al_ray.types import JSON

_GATEWAY: Final = "gateway"
_SLACK: Final = 10.0
"""Seconds beyond the grace that a container may take to be gone."""


class SandboxedAgent:
    """A command within walls. Raises ``RecipeError`` where there are none."""

    def __init__(self, section: AgentSection) -> None:
        assert section.sandbox is not None
        self._section = section
        self._wall = wall(section.sandbox)

    async def start(self, job: Job) -> _Sandboxed:
        services = {f"service-{name}": url for name, url in job.endpoint.services.items()}
        relay = Relay({_GATEWAY: job.endpoint.base_url, **services})
        try:
            variables = self._variables(job, relay)
            if self._section.task == "file":
                (relay.folder / "task.json").write_bytes(task_bytes(job))
            here = inherited(self._section, os.environ)
            within = Within(self._section, relay.folder, relay.ports, tuple(variables))
            program = Program(
                command=self._wall.command(within),
                environment=(here if self._wall.is_client else {}) | variables,
                folder=str(relay.folder),  # where Podman leaves a note when the memory was used up
                stdin=task_bytes(job) if self._section.task == "stdin" else b"",
                grace=self._section.grace,
            )
            await relay.start()
            stdout = LastLine(job.printed.stdout, MAX_RESULT_BYTES)
            process = await GuardedProcess.start(program, stdout, job.printed.stderr)
        except BaseException:
            relay.close()
            raise
        return _Sandboxed(RunningCommand(job, process, stdout, relay.close), relay, self._section.grace)

    def _variables(self, job: Job, relay: Relay) -> dict[str, str]:
        """What the program finds: what the recipe names and the attempt's own, with the URLs within."""
        inner = {name: relay.inner_url(f"service-{name}") for name in job.endpoint.services}
        endpoint = replace(job.endpoint, base_url=relay.inner_url(_GATEWAY), services=inner)
        named = {name: os.environ[name] for name in self._section.environment}
        variables = agent_environment.variables(replace(job, endpoint=endpoint), named)
        if self._section.task == "variables":
            variables |= agent_environment.task_variables(job.task)
        elif self._section.task == "file":
            variables[agent_environment.TASK_FILE] = f"{RELAY_FOLDER}/task.json"
        return variables


class _Sandboxed:
    def __init__(self, command: RunningCommand, relay: Relay, grace: float) -> None:
        self._command = command
        self._relay = relay
        self._grace = grace

    async def wait(self) -> JSON:
        return await self._command.wait()

    async def end(self) -> None:
        """Whoever starts the walls may be gone before what is within them; so that is waited for first."""
        await self._relay.end(self._grace + _SLACK)
        await self._command.end()

    @property
    def ended(self) -> bool:
        return self._command.ended
