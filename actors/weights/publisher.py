"""The learner's end of every transport, by the transport's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from al_ray.actors.weights.pushed import IpcPublisher, NcclPublisher, PushingPublisher
from al_ray.actors.weights.stored import ObjectStorePublisher, SharedMemoryPublisher
from al_ray.actors.weights.update import NamedTensors, Transport, WeightUpdate


class StoringPublisher(Protocol):
    """The learner's end of a transport that stores."""

    def publish(self, named_tensors: NamedTensors, version: int) -> WeightUpdate: ...

    def close(self) -> None:
        """Frees what was published."""


PUBLISHERS: Mapping[Transport, Callable[[int], StoringPublisher | PushingPublisher]] = {
    "shared_memory": lambda rank: SharedMemoryPublisher(),
    "object_store": lambda rank: ObjectStorePublisher(),
    "nccl": NcclPublisher,
    "ipc": IpcPublisher,
}
"""Each made with the learner's rank."""
