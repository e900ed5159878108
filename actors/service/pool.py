"""The services of a run, as the driver holds them: started, looked after, and ended together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import ray
from ray.exceptions import RayError

from al_ray.actors.http import LOOPBACK, reachable
from al_ray.actors.keepers import Keepers
from al_ray.actors.ray_errors import DIED, at_its_start, unwrapped
from al_ray.actors.service.actor import SERVICE_OPTIONS, ServiceHost
from al_ray.actors.waiting import all_started, answered, started
from al_ray.errors import ServiceUnavailableError, UnresponsiveError
from al_ray.machines import cluster
from al_ray.recipe import ServiceSection

_ALIVE: Final = "alive"
_PROBE_EVERY: Final = 1.0
_PROBE_SECONDS: Final = 20.0
"""In which a service answers that it is well."""
_STARTING_SECONDS: Final = 300.0
"""In which the process of one that starts tells that it lives, whatever its service is at."""
_MAX_DEATHS: Final = 5
"""In a row, without having been well in between; one more is not by chance."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Hosted:
    """One service. Its port is kept when its process is replaced."""

    name: str
    host: Any = None
    port: int = 0


class ServicePool:
    """One process for each service, where ``options`` puts it, listening at ``host``; one that dies, or is
    not well, is replaced at the same URL."""

    def __init__(
        self,
        sections: Mapping[str, ServiceSection],
        path: str | None,
        options: Mapping[str, Any],
        host: str = LOOPBACK,
    ) -> None:
        self._sections = sections
        self._path = path
        self._host = host
        kind: Any = ray.remote(concurrency_groups={_ALIVE: 1})(ServiceHost)
        self._actor = kind.options(**SERVICE_OPTIONS, **options)
        self._hosted = [_Hosted(name) for name in sections]
        self._keepers = Keepers()

    async def start(self) -> Mapping[str, str]:
        """Start all; returns their URLs by name. Raises what one of them raises; one that dies is followed by
        another, as far as that helps."""
        with unwrapped():
            await all_started([self._start_first(hosted) for hosted in self._hosted])
        self._keepers.start(self._keep(hosted) for hosted in self._hosted)
        return {hosted.name: f"http://{reachable(self._host)}:{hosted.port}" for hosted in self._hosted}

    def failure(self) -> BaseException | None:
        """What ended a service for good, if anything did."""
        return self._keepers.failure()

    async def stop(self) -> None:
        """End all."""
        await self._keepers.stop()
        for hosted in self._hosted:
            if hosted.host is not None:
                ray.kill(hosted.host)

    async def _start(self, hosted: _Hosted) -> None:
        hosted.host = self._actor.remote(hosted.name, self._sections[hosted.name], self._path, self._host)
        hosted.port = await started(
            partial(hosted.host.start.remote, hosted.port),
            hosted.host.alive.options(concurrency_group=_ALIVE).remote,
            partial(cluster.has_process, hosted.host),
            _PROBE_SECONDS,
            _STARTING_SECONDS,
            f"service {hosted.name}",
        )

    async def _start_first(self, hosted: _Hosted) -> None:
        for further in reversed(range(_MAX_DEATHS + 1)):
            try:
                return await self._start(hosted)
            except (*DIED, UnresponsiveError) as error:
                if at_its_start(error) or not further:
                    raise
                _log.warning("service %s is started anew: %s", hosted.name, error)
                ray.kill(hosted.host)

    async def _keep(self, hosted: _Hosted) -> None:
        """Replace its process whenever that is not well. Raises when this does not help."""
        deaths = 0
        while True:
            try:
                if hosted.host is None:
                    await self._start(hosted)
                await asyncio.sleep(_PROBE_EVERY)
                await answered(hosted.host.probe.remote(), _PROBE_SECONDS, "it")
                deaths = 0
            except (RayError, UnresponsiveError) as error:
                deaths += 1
                if deaths > _MAX_DEATHS:
                    told = f"service {hosted.name} was not well {deaths} times in a row"
                    raise ServiceUnavailableError(f"{told}: {error}") from error
                _log.warning("service %s is started anew: %s", hosted.name, error)
                ray.kill(hosted.host)
                hosted.host = None
