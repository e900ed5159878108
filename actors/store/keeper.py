"""The run's store, as the driver holds it: started, and started anew when its process does not answer.

Ray does that when it dies. One that is stopped, it would wait for, and everybody with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import ray

from al_ray.actors.keepers import Keepers
from al_ray.actors.ray_errors import unwrapped
from al_ray.actors.store.actor import STORE_OPTIONS, Store
from al_ray.actors.waiting import answered
from al_ray.errors import UnresponsiveError

if TYPE_CHECKING:
    from al_ray.actors.store.trace_exporter import ExportTarget

_log = logging.getLogger(__name__)

_PING_EVERY: Final = 5.0
_ANSWER_SECONDS: Final = 30.0
_START_SECONDS: Final = 300.0


class StoreKeeper:
    """``store`` is the actor, of Ray's ``options``; calls to it wait while it is started anew."""

    def __init__(self, url: str, export: ExportTarget | None, options: Mapping[str, Any]) -> None:
        self.store: Any = ray.remote(Store).options(**STORE_OPTIONS, **options).remote(url, export=export)
        self._keepers = Keepers()

    async def start(self) -> None:
        """Returns when it is up. Raises ``UserError`` if its database cannot be used."""
        with unwrapped():
            try:
                await answered(self.store.ping.remote(), _START_SECONDS, "it, which starts,")
            except UnresponsiveError as error:
                await self._anew(error)
        self._keepers.start([self._keep()])

    def failure(self) -> BaseException | None:
        """Why it could not be kept, if that happened."""
        return self._keepers.failure()

    async def stop(self, export_seconds: float) -> None:
        """End it, after what waits for a tracing backend has had so long to leave."""
        await self._keepers.stop()
        try:
            await answered(self.store.flush_export.remote(export_seconds), export_seconds + 1, "the store")
        except UnresponsiveError as error:
            _log.warning("spans may not have been exported: %s", error)
        finally:
            ray.kill(self.store)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_PING_EVERY)
            try:
                with unwrapped():
                    await answered(self.store.ping.remote(), _ANSWER_SECONDS, "it")
            except UnresponsiveError as error:
                await self._anew(error)

    async def _anew(self, error: UnresponsiveError) -> None:
        _log.warning("the store is started anew: %s", error)
        ray.kill(self.store, no_restart=False)
        await answered(self.store.ping.remote(), _START_SECONDS, "the store, started anew,")
