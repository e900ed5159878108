"""What others read and write in a store's database: the driver, finished groups; gateways, keys and spans."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from al_ray.actors.store.span_recorder import SpanRecorder
from al_ray.database.writer import Database
from al_ray.errors import AttemptEndedError
from al_ray.types import Claim, Group, Span


@asynccontextmanager
async def database_of(store: Any) -> AsyncIterator[Database]:
    database = Database(await store.__ray_call__.remote(lambda actor: actor._url))
    yield database
    database.close()


async def finished(store: Any, batch: str, wait_seconds: float = 60.0) -> list[Group]:
    """Told of by the store, read from its database."""
    names = await store.finished_groups.remote(batch, [], wait_seconds)
    async with database_of(store) as database:
        return database.groups(batch, names)


async def authorize(store: Any, key: str) -> Claim:
    async with database_of(store) as database:
        (claim,) = database.authorize([key])
    if isinstance(claim, AttemptEndedError):
        raise claim
    return claim


async def append(store: Any, *batches: Sequence[Span]) -> Sequence[Exception | None]:
    async with database_of(store) as database:
        return await SpanRecorder(database).append(batches)
