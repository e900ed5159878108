"""What a runner is started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from al_ray.recipe import AgentSection


@dataclass(frozen=True, slots=True)
class RunnerSpec:
    """What a runner runs."""

    name: str
    agent: AgentSection
    base_urls: Sequence[str]
    """Of the gateways; each rollout keeps to one."""
    model: str
    services: Mapping[str, str] = field(default_factory=dict)
    """URLs by name."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The variables that ``agent.environment`` names, as they are where the driver runs."""
