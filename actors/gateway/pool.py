"""The gateway pool: keeps the gateways of a run alive, from the driver.

They share nothing but the database. One that dies is replaced behind its door, where calls wait meanwhile;
what was under way in it is lost to its clients, whose SDKs ask again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from al_ray.actors.gateway.actor import GATEWAY_OPTIONS, Gateway
from al_ray.actors.gateway.door import DOOR_OPTIONS, Address, Door
from al_ray.actors.gateway.spec import GatewaySpec
from al_ray.actors.keepers import MAX_LOST, Keepers
from al_ray.actors.ray_errors import DIED, at_its_start
from al_ray.actors.waiting import answered, while_answering
from al_ray.errors import UnresponsiveError

_log = logging.getLogger(__name__)

_PING_EVERY: Final = 5.0
_ANSWER_SECONDS: Final = 30.0
"""In which a gateway or a door answers, unless it is stopped."""
_START_SECONDS: Final = 300.0
"""In which one starts."""


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
        """Start a gateway; returns its base URL, which is always the same. One that is lost as it starts is
        followed by another, as far as that helps."""
        lost = 0
        while True:
            door = await self._opened()
            beside = NodeAffinitySchedulingStrategy(door.node, soft=False)
            actor = ray.remote(Gateway).options(**GATEWAY_OPTIONS, scheduling_strategy=beside)
            self._gateway = actor.remote(self._spec, self._url)
            try:
                url = await answered(self._gateway.start.remote(door), _START_SECONDS, "it, which starts,")
            except (ConnectionError, *DIED, UnresponsiveError) as error:
                lost += 1
                ray.kill(self._gateway)
                if lost > MAX_LOST or at_its_start(error):
                    raise
                _log.warning("the gateway at port %d did not come up: %s", self._port, error)
            else:
                await self.admit(self._engines)
                return url

    async def _opened(self) -> Address:
        """The door."""
        seconds = _ANSWER_SECONDS
        while True:
            try:
                door: Address = await answered(self._door.open.remote(self._port), seconds, "it")
            except UnresponsiveError as error:
                _log.warning("the door at port %d is opened anew: %s", self._port, error)
                ray.kill(self._door, no_restart=False)
                seconds = _START_SECONDS
            else:
                self._port = door.port
                return door

    async def keep(self) -> None:
        """Replace the gateway whenever its process ends. Raises why that does not help."""
        while True:
            try:
                await while_answering(
                    self._gateway.stay.remote(), self._gateway.ping.remote, _PING_EVERY, _ANSWER_SECONDS, "it"
                )
            except (*DIED, UnresponsiveError) as error:
                _log.warning("the gateway at port %d is replaced: %s", self._port, error)
            ray.kill(self._gateway)  # it may only have been out of reach
            await self.open()

    async def admit(self, engines: Sequence[Any]) -> None:
        self._engines = engines
        if self._gateway is not None:
            with suppress(*DIED, UnresponsiveError):  # its replacement will be told
                await answered(self._gateway.admit.remote(engines), _ANSWER_SECONDS, "a gateway")

    async def flush_export(self, seconds: float) -> None:
        if self._gateway is not None:
            with suppress(*DIED, UnresponsiveError):  # what waited in it is gone
                await answered(self._gateway.flush_export.remote(seconds), seconds + 1, "a gateway")

    def close(self) -> None:
        for actor in (self._gateway, self._door):
            if actor is not None:
                ray.kill(actor)
