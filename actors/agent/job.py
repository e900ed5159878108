"""An agent as the runner sees it, however it is run: made ready once, started once for each attempt.

``al_ray.actors.agent.isolation`` is the table of the ways to run one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from al_ray.actors.agent.printed import Printed
from al_ray.errors import AgentExitError
from al_ray.types import JSON, Attempt, Endpoint, RolloutRequest

MAX_RESULT_BYTES: Final = 16 * 2**20
"""Of what an agent returns, as JSON."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt, as its agent needs to know it."""

    request: RolloutRequest
    attempt: Attempt
    endpoint: Endpoint
    printed: Printed
    """Keeps what the agent prints."""

    @property
    def task(self) -> Mapping[str, JSON]:
        return self.request.task.data


class Running(Protocol):
    """An agent under way."""

    async def wait(self) -> Any:
        """What it returned. Raises what it raised."""

    async def end(self) -> None:
        """End it, if it has not ended, and all that it has started. May take the recipe's ``grace``."""

    @property
    def ended(self) -> bool:
        """Whether it is gone for good."""


class ReadyAgent(Protocol):
    """The recipe's agent, ready to be started."""

    async def start(self, job: Job, /) -> Running: ...


def too_large(size: int) -> AgentExitError:
    """Of a result of ``size`` bytes of JSON."""
    return AgentExitError(f"it returned {size} bytes of JSON; {MAX_RESULT_BYTES} are allowed")
