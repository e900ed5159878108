"""When calls waited because no engine was there: whose time that was, it was not the agents'."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from aiohttp import web

from al_ray.actors.http import json_response

PATH: Final = "/v1/absences"
_REMEMBERED: Final = 64


class Absences:
    """Of engines that a call waited for: one that nobody misses is none."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._past: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)

    def begin(self) -> None:
        if self._began is None:
            self._began = time.monotonic()

    def end(self) -> None:
        if self._began is not None:
            self._past.append((self._began, time.monotonic()))
            self._began = None

    def ago(self) -> list[tuple[float, float]]:
        """Of each, how many seconds ago it began and ended, the latter 0 while it is under way."""
        now = time.monotonic()
        found = [(now - began, now - ended) for began, ended in self._past]
        return found if self._began is None else [*found, (now - self._began, 0.0)]

    def routes(self) -> list[web.RouteDef]:
        return [web.get(PATH, self._tell)]

    async def _tell(self, request: web.Request) -> web.Response:
        return json_response({"absences": self.ago()})
