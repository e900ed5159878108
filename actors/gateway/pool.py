"""The gateway pool: keeps the gateways of a run alive, from the driver.

They share nothing but the database. One that dies is replaced behind its door, where calls wait meanwhile;
what was under way in it is lost to its clients, whose SDKs ask again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from al_ray.actors.gateway.actor import GATEWAY_OPTIONS, Gateway
from al_ray.actors.gateway.door import DOOR_OPTIONS, Door
from al_ray.actors.gateway.spec import GatewaySpec
from al_ray.actors.keepers import Keepers

_log = logging.getLogger(__name__)


class GatewayPool:
    """Runs ``count`` gateways, placed by Ray's ``options``; ``url`` is the database's."""

    def __init__(self, spec: GatewaySpec, count: int, url: str, options: Mapping[str, Any]) -> None:
        self._posts = [_Post(spec, url, options) for _ in range(count)]
        self._keepers = Keepers()

    async def start(self) -> Sequence[str]:
        """Start all gateways; returns the base URLs that agents use."""
        urls = await asyncio.gather(*(post.open() for post in self._posts))
        self._keepers.start(post.keep() for post in self._posts)
        return urls

    async def admit(self, engines: Sequence[Any]) -> None:
        """Send calls to these engines from now on; with none, calls wait."""
        await asyncio.gather(*(post.admit(engines) for post in self._posts))

    def failure(self) -> BaseException | None:
        """Why a gateway could not be replaced, if that happened."""
        return self._keepers.failure()

    async def flush_export(self, seconds: float) -> None:
        """Wait for exported spans to leave, but not longer."""
        await asyncio.gather(*(post.flush_export(seconds) for post in self._posts))

    async def stop(self) -> None:
        """End all gateways; calls under way are abandoned."""
        await self._keepers.stop()
        for post in self._posts:
            post.close()


class _Post:
    """One gateway after the other, behind one door."""

    def __init__(self, spec: GatewaySpec, url: str, options: Mapping[str, Any]) -> None:
        self._door = ray.remote(Door).options(**DOOR_OPTIONS, **options).remote(spec.host)
        self._spec = spec
        self._url = url
        self._port = 0
        self._engines: Sequence[Any] = ()
        self._gateway: Any = None

    async def open(self) -> str:
        """Start a gateway; returns its base URL, which is always the same."""
        while True:
            door = await self._door.open.remote(self._port)
            self._port = door.port
            beside = NodeAffinitySchedulingStrategy(door.node, soft=False)
            actor = ray.remote(Gateway).options(**GATEWAY_OPTIONS, scheduling_strategy=beside)
            self._gateway = actor.remote(self._spec, self._url)
            try:
                url = await self._gateway.start.remote(door)
            except ConnectionError as error:
                _log.warning("the door at port %d died before its gateway came: %s", self._port, error)
                ray.kill(self._gateway)
            else:
                await self.admit(self._engines)
                return url

    async def keep(self) -> None:
        """Replace the gateway whenever its process ends."""
        while True:
            try:
                await self._gateway.stay.remote()
            except RayActorError as error:
                _log.warning("the gateway at port %d is replaced: %s", self._port, error)
            ray.kill(self._gateway)  # it may only have been out of reach
            with suppress(RayActorError):  # dead again: staying tells
                await self.open()

    async def admit(self, engines: Sequence[Any]) -> None:
        self._engines = engines
        if self._gateway is not None:
            with suppress(RayActorError):  # its replacement will be told
                await self._gateway.admit.remote(engines)

    async def flush_export(self, seconds: float) -> None:
        if self._gateway is not None:
            with suppress(RayActorError):  # what waited in it is gone
                await self._gateway.flush_export.remote(seconds)

    def close(self) -> None:
        for actor in (self._gateway, self._door):
            if actor is not None:
                ray.kill(actor)
