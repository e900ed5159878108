"""The gateway: the endpoint that agents call, in OpenAI's APIs and Anthropic's.

It knows the attempt from the API key, decides the sampling, asks an engine, makes the call durable
in the run's database, and only then answers. While weights change or no engine is admitted, requests wait;
nobody is told to come back later. What it remembers is a cache: any gateway can answer any attempt,
and one that is started anew goes on.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, cast

from aiohttp import web

from al_ray.actors.gateway import door, openapi
from al_ray.actors.gateway.agent_reports import AgentReports
from al_ray.actors.gateway.attempt_keys import KEY_IN_PATH, AttemptKeys
from al_ray.actors.gateway.attempt_limits import AttemptLimits
from al_ray.actors.gateway.calls.call import Engines
from al_ray.actors.gateway.calls.engines.router import EngineRouter
from al_ray.actors.gateway.calls.hosted.model import HostedModel
from al_ray.actors.gateway.calls.models import ModelList
from al_ray.actors.gateway.calls.recorded.earlier import EarlierCalls
from al_ray.actors.gateway.calls.recorded.repeated import RepeatedCalls
from al_ray.actors.gateway.calls.recorded.replays import Replays
from al_ray.actors.gateway.calls.routes import ModelCalls
from al_ray.actors.gateway.failures import failures_in_shape
from al_ray.actors.gateway.otlp_receiver import OtlpReceiver
from al_ray.actors.gateway.spec import GatewaySpec
from al_ray.actors.http import reachable
from al_ray.actors.store.span_recorder import SpanRecorder
from al_ray.actors.store.trace_exporter import TraceExporter
from al_ray.database.reader import Records
from al_ray.database.writer import Database

GATEWAY_OPTIONS: Final = {"num_cpus": 0, "max_concurrency": 10_000}
_VERSION: Final = "/v1"
_IDLE_SECONDS: Final = 75.0
"""After which a connection without a request is closed."""
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n"
    b'{"error": {"message": "the gateway has as many connections as it may have", "type": "server_error"}}'
)


class Gateway:
    """Make it an actor with ``GATEWAY_OPTIONS``, where the database at ``url`` can be reached; ``start``
    returns the base URL that agents use. A run's are kept by ``GatewayPool``. Where one task is tried by hand
    it is no actor, and has ``engine``, the only one, beside it."""

    def __init__(self, spec: GatewaySpec, url: str, engine: Engines | None = None) -> None:
        self._spec = spec
        self._url = url
        self._router = EngineRouter()
        self._engines: Engines = engine or self._router
        self._exporter = TraceExporter(spec.export) if spec.export else None

    def __repr__(self) -> str:
        """What Ray's dashboard calls it."""
        return "gateway"

    async def start(self, at: door.Address | None = None) -> str:
        """Listen at the door, or on a free port where there is none. Raises ``UserError`` if the database
        cannot be used."""
        database = await asyncio.to_thread(Database, self._url)
        app = web.Application(client_max_size=self._spec.max_body_bytes, middlewares=[failures_in_shape])
        for path, route in _served(self._routes(database)):
            app.router.add_route(route.method, path, route.handler)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, keepalive_timeout=_IDLE_SECONDS
        )
        await runner.setup()
        listener = door.listener(self._spec.host) if at is None else door.at(at)
        await asyncio.get_running_loop().create_server(
            lambda: self._protocol(runner.server), sock=listener, backlog=door.BACKLOG
        )
        # What is there by now stays. Looked through again and again, it would hold up the calls.
        gc.collect()
        gc.freeze()
        return f"http://{reachable(self._spec.host)}:{listener.getsockname()[1]}/v1"

    async def stay(self) -> None:
        """Returns never: whoever waits for it learns of this gateway's death."""
        await asyncio.Event().wait()

    async def ping(self) -> None:
        """Answers unless the process is stopped."""

    async def admit(self, engines: Sequence[Any]) -> None:
        """Send calls to these engines from now on; with none, calls wait."""
        self._router.admit(engines)

    async def flush_export(self, seconds: float) -> int:
        """Wait for exported spans to leave, but not longer; returns how many were dropped in all."""
        return await self._exporter.flush(seconds) if self._exporter else 0

    def _routes(self, database: Database) -> list[web.RouteDef]:
        """All that is served; ``_served`` says where else."""
        spec = self._spec
        keys, recorder = AttemptKeys(database), SpanRecorder(database, self._exporter)
        limits = AttemptLimits(spec.limits, database, recorder)
        hosted = {name: HostedModel(model) for name, model in spec.hosted.items()}
        repeated, earlier = RepeatedCalls(database), EarlierCalls(keys, database)
        recorded = None if spec.recorded is None else Records(spec.recorded, read_only=True)
        replays = Replays(database, recorded, recorder, self._engines)
        calls = ModelCalls(
            spec.rules, keys, limits, recorder, repeated, replays, self._engines, earlier, hosted
        )
        models = ModelList(keys, list(dict.fromkeys([spec.rules.model, *hosted])))
        reports = AgentReports(keys, recorder, database)
        traces = OtlpReceiver(keys, recorder, spec.collector_key)
        document = web.get(openapi.PATH, openapi.serve)
        told = [each.routes() for each in (calls, earlier, models, reports, traces, self._router.absences)]
        return [*chain.from_iterable(told), document]

    def _protocol(self, server: Any) -> asyncio.BaseProtocol:
        """For a new connection."""
        return _TurnedAway() if len(server.connections) >= self._spec.max_connections else server()


class _TurnedAway(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast(asyncio.WriteTransport, transport)  # uvloop's is none by its class
        connection.write(_FULL)
        connection.close()


def _served(routes: Sequence[web.RouteDef]) -> Iterator[tuple[str, web.RouteDef]]:
    """Where each route is found, the usual places first. Some clients add the ``/v1`` to the base URL that
    they are given, some expect it there, and some can set no other key than one in the path."""
    for version in (_VERSION, "", 2 * _VERSION):
        for prefix in ("", KEY_IN_PATH):
            for route in routes:
                if route.path.startswith(_VERSION):
                    yield prefix + version + route.path.removeprefix(_VERSION), route
                elif version == _VERSION:
                    yield prefix + route.path, route
