"""Weights that are stored as a learner does it, and an engine without a model that reads them. Ray's workers
import this module: of them, those alone that store import torch."""

from __future__ import annotations

from pathlib import Path

import ray

from al_ray.actors.weights.stored import ObjectStorePublisher, SharedMemoryPublisher, local_files
from al_ray.actors.weights.update import Transport, WeightUpdate
from tests.actors.engine.pool.faulty import FaultyEngine


class ReadingEngine(FaultyEngine):
    """Reads what it is to load."""

    async def load(self, update: WeightUpdate) -> None:
        async for path in local_files(update):
            assert Path(path).stat().st_size
        await super().load(update)


@ray.remote(num_cpus=0)
class Storing:
    """As a learner does it."""

    def __init__(self, folder: Path, transport: Transport) -> None:
        self._publisher = {
            "shared_memory": lambda: SharedMemoryPublisher(folder),
            "object_store": ObjectStorePublisher,
        }[transport]()

    def publish(self, version: int) -> WeightUpdate:
        import torch

        return self._publisher.publish({"weight": torch.zeros(2**20)}.items(), version)
