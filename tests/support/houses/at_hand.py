"""A real gateway in the test's own process, over a real database: no actor and no Ray."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from al_ray.actors.gateway.actor import Gateway
from al_ray.actors.gateway.calls.engines.own import OwnEngine
from al_ray.actors.gateway.spec import GatewaySpec
from al_ray.database.backends import sqlite_url
from al_ray.database.writer import Ask, Database
from al_ray.types import Attempt, Mode, Replay, RolloutRequest, Task
from tests.support.houses.gateway import SPEC, House

_LEASE = 600.0


@dataclass(frozen=True)
class HouseAtHand(House):
    """One whose store is the database alone."""

    async def attempt(self, mode: Mode = "train", replay: Replay | None = None, group: str = "") -> Attempt:
        name = f"{self.url} {next(self.names)}"
        request = RolloutRequest(name, "b", group or name, Task("t", {}), mode, replay=replay)
        now = time.time()
        with self.database.begin() as connection:
            self.database.enqueue(connection, [request])
            [[claim]] = self.database.claim(connection, [Ask("w", name, 1)], now, _LEASE, now + _LEASE)
        return claim.attempt


@asynccontextmanager
async def open_at_hand(folder: Path, engine: Any, spec: GatewaySpec = SPEC) -> AsyncIterator[HouseAtHand]:
    """Another one in the same folder has the same database. The gateway listens until the loop ends."""
    url = sqlite_url(folder / "store.sqlite")
    database = Database(url)
    gateway = Gateway(spec, url, OwnEngine(engine))
    try:
        yield HouseAtHand(None, gateway, await gateway.start(), url, database, itertools.count())
    finally:
        database.close()
