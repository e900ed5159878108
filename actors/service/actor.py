"""The service actor: any service that a recipe names, behind HTTP, in a process of its own.

``POST /`` asks it, JSON for JSON; ``GET /health`` is 200 while it is well. The port is the caller's to
choose, so that a service which is started anew is found where it was.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from aiohttp import web

from al_ray.actors.http import LOOPBACK, json_response, read_body
from al_ray.errors import BadRequestError
from al_ray.protocols import Service
from al_ray.recipe import ServiceSection, dotted

SERVICE_OPTIONS: Final = {"num_cpus": 0, "max_concurrency": 1000}


class ServiceHost:
    """Make it an actor with ``SERVICE_OPTIONS``."""

    def __init__(self, name: str, section: ServiceSection, path: str | None, host: str = LOOPBACK) -> None:
        self._name = name
        self._host = host
        self._section = section
        self._path = path
        self._service: Service

    def __repr__(self) -> str:
        """What Ray's dashboard calls it."""
        return f"service {self._name}"

    async def start(self, port: int) -> int:
        """Listen on the port, on any free one if it is 0; returns it. Raises what the service raises."""
        make: Any = dotted.load(self._section.run, f"services.{self._name}.run")
        self._service = make(self._path, **self._section.options)
        await self._service.start()
        app = web.Application()
        app.add_routes([web.post("/", self._answer), web.get("/health", self._health)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, self._host, port, backlog=1024).start()
        return int(runner.addresses[0][1])

    async def alive(self) -> None:
        """Answers, in a concurrency group of its own, also while the service blocks the event loop."""

    async def probe(self) -> None:
        """Raises where the service is not well."""
        await self._service.probe()

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            question = orjson.loads(await read_body(request))
            return json_response(await self._service.answer(question))
        except orjson.JSONDecodeError as error:
            return json_response({"error": f"the body must be JSON: {error}"}, 400)
        except BadRequestError as error:
            return json_response({"error": str(error)}, 400)

    async def _health(self, request: web.Request) -> web.Response:
        await self._service.probe()  # what it raises is logged, and told as a 500
        return json_response({"status": "ok"})
