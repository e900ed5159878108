"""What a gateway is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from al_ray.actors.gateway.attempt_limits import NO_LIMITS, Limits
from al_ray.actors.gateway.calls.hosted.model import HostedModelSpec
from al_ray.actors.gateway.calls.routes import CallRules
from al_ray.actors.store.trace_exporter import ExportTarget


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """What a gateway serves."""

    rules: CallRules
    limits: Limits = NO_LIMITS
    hosted: Mapping[str, HostedModelSpec] = field(default_factory=dict)
    collector_key: str | None = None
    """Of a collector that sends the spans of many attempts; it may name the attempt."""
    export: ExportTarget | None = None
    """A tracing backend that gets the spans too."""
    recorded: str | None = None
    """The database with the rollouts that are repeated."""
    host: str = "127.0.0.1"
    max_body_bytes: int = 16 * 2**20
    max_connections: int = 8192
    """At once; whoever comes then is told so and turned away."""
