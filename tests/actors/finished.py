"""The finished groups of a batch, read as a driver reads them."""

from __future__ import annotations

from typing import Any

from al_ray.records import Records
from al_ray.types import Group


async def finished(store: Any, batch: str, wait_seconds: float = 60.0) -> list[Group]:
    """Told of by the store, read from its database."""
    names = await store.finished_groups.remote(batch, [], wait_seconds)
    records = Records(await store.__ray_call__.remote(lambda actor: actor._url))
    groups = records.groups(batch, names)
    records.close()
    return groups
