"""What travels from the learners to the engines, and by which transport.

The learner calls its publisher's ``publish`` with its tensors and gets a ``WeightUpdate``, which is
small and can be sent anywhere; ``EnginePool.update`` makes the engines load it. Over ``shared_memory``
(engines on the learner's node) and ``object_store`` (anywhere) the weights are stored, and can be
loaded again later, by an engine that was replaced. Over ``nccl`` and ``ipc`` nothing is stored: they
are pushed, while the engines are paused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import ray
    import torch

Transport = Literal["shared_memory", "object_store", "nccl", "ipc"]
NamedTensors = Iterable[tuple[str, "torch.Tensor"]]
"""Weights by their checkpoint names."""

_TRANSPORTS: Mapping[tuple[str, bool], Transport] = {
    ("cpu", True): "shared_memory",
    ("cpu", False): "object_store",
    ("gpu", True): "ipc",
    ("gpu", False): "nccl",
}
BACKENDS: Mapping[Transport, Literal["al_ray", "nccl", "ipc"]] = {
    "shared_memory": "al_ray",
    "object_store": "al_ray",
    "nccl": "nccl",
    "ipc": "ipc",
}
"""vLLM's weight transfer backend (``EngineSpec.weight_transfer``) of each transport."""


def name_of_policy(policy: str, name: str) -> str:
    """What a tensor of a policy's adapter is called in an update, beside those of others."""
    return f"{policy}/{name}" if policy else name


def policy_and_name(name: str) -> tuple[str, str]:
    """The reverse: whose a tensor is, and what it is called there."""
    policy, _, of_adapter = name.rpartition("/")
    return policy, of_adapter


def transport(device: Literal["cpu", "gpu"], *, together: bool) -> Transport:
    """The transport to use: ``together`` is one node on CPU and the same devices on GPU."""
    return _TRANSPORTS[device, together]


def pushes(transport: Transport) -> bool:
    """Whether the learners send the weights to paused engines, rather than store them."""
    return BACKENDS[transport] != "al_ray"


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """Where the weights of a policy version lie; with neither path nor shards the learner sends them."""

    version: int
    path: str | None = None
    """A safetensors file on the learner's node."""
    shards: Sequence[ray.ObjectRef] = ()
    """Safetensors files in Ray's object store, as arrays of bytes."""

    @property
    def stored(self) -> bool:
        """Whether it can be loaded at any time, without the learner's help."""
        return self.path is not None or bool(self.shards)
