"""How new weights travel from the learner to the engines.

The learner calls ``publish`` with its tensors and gets a ``WeightUpdate``, which is small and can be
sent anywhere; ``EnginePool.update`` makes the engines load it. Over ``shared_memory`` (engines on the
learner's node) and ``object_store`` (anywhere) the update can be loaded again later, by an engine
that was replaced. Over ``nccl`` and ``ipc`` nothing is stored: while the engines are paused, every
learner rank calls ``send``, and vLLM's own trainer engine drives the transfer.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import ray
    import torch
    from ray.actor import ActorHandle

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "al_ray-weights-"
SHARD_BYTES = 2**29

Transport = Literal["shared_memory", "object_store", "nccl", "ipc"]
NamedTensors = Iterable[tuple[str, "torch.Tensor"]]

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


def transport(device: Literal["cpu", "gpu"], *, together: bool) -> Transport:
    """The transport to use: ``together`` is one node on CPU and the same devices on GPU."""
    return _TRANSPORTS[device, together]


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


async def local_files(update: WeightUpdate) -> AsyncIterator[str]:
    """The files of ``update`` on this node; one from the object store lives until the next is asked for."""
    if update.path is not None:
        yield update.path
    for shard in update.shards:
        with NamedTemporaryFile(dir=SHARED_MEMORY, prefix=PREFIX, suffix=".safetensors") as file:
            file.write(memoryview(await shard))
            file.flush()
            yield file.name


class Publisher(Protocol):
    """The learner's end of a transport."""

    def publish(self, named_tensors: NamedTensors, version: int) -> WeightUpdate: ...

    def close(self) -> None:
        """Frees what was published."""


class SharedMemoryPublisher:
    """Writes each version to a file in shared memory.

    Two versions are kept: until the engines have all loaded the newer one, a replaced engine may
    still ask for the older. A publisher's folder is locked while its process lives, so what a killed
    one left behind is told from what a living one holds, and removed by the next.
    """

    def __init__(self, parent: Path = SHARED_MEMORY) -> None:
        for folder in parent.glob(f"{PREFIX}*/"):
            _remove_if_unlocked(folder)
        self._folder = Path(mkdtemp(dir=parent, prefix=PREFIX))
        self._lock = os.open(self._folder, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._paths: list[Path] = []

    def publish(self, named_tensors: NamedTensors, version: int) -> WeightUpdate:
        from safetensors.torch import save_file

        path = self._folder / f"{version}.safetensors"
        save_file(_plain(named_tensors), path)
        self._paths = [*(other for other in self._paths if other != path), path]
        while len(self._paths) > 2:
            self._paths.pop(0).unlink()
        return WeightUpdate(version, path=str(path))

    def close(self) -> None:
        shutil.rmtree(self._folder)
        os.close(self._lock)


def _remove_if_unlocked(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # its publisher has just closed
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        return
    finally:
        os.close(lock)


class ObjectStorePublisher:
    """Puts each version into Ray's object store, in shards that bound the memory of a copy."""

    def __init__(self) -> None:
        self._kept: list[WeightUpdate] = []

    def publish(self, named_tensors: NamedTensors, version: int) -> WeightUpdate:
        import numpy as np
        import ray
        from safetensors.torch import save

        shards = [
            ray.put(np.frombuffer(save(shard), dtype=np.uint8)) for shard in _shards(_plain(named_tensors))
        ]
        update = WeightUpdate(version, shards=shards)
        self._kept = [*self._kept[-1:], update]
        return update

    def close(self) -> None:
        self._kept.clear()


def _plain(named_tensors: NamedTensors) -> dict[str, torch.Tensor]:
    """Contiguous tensors in main memory that share none of it, as safetensors demands of tied weights."""
    tensors: dict[str, torch.Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in named_tensors:
        plain = tensor.detach().cpu().contiguous()
        tensors[name] = plain.clone() if plain.data_ptr() in addresses else plain
        addresses.add(plain.data_ptr())
    return tensors


def _shards(tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    if shard:
        yield shard


class _PushPublisher:
    """Over devices: ``connect`` once, then for each version ``publish`` and, engines paused, ``send``.

    All three are called on every learner rank, since gathering sharded tensors is collective; rank
    0 alone speaks with the engines.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._named_tensors: list[tuple[str, torch.Tensor]] = []
        self._trainer: Any = None

    def publish(self, named_tensors: NamedTensors, version: int) -> WeightUpdate:
        self._named_tensors = list(named_tensors)
        return WeightUpdate(version)

    def send(self) -> None:
        self._trainer.send_weights()

    def close(self) -> None:
        if self._trainer is not None:
            self._trainer.shutdown()

    def _connect(self, init_info: Any, engines: Sequence[ActorHandle]) -> None:
        from vllm.distributed.weight_transfer.clients import RayVLLMWeightSyncClient
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        self._trainer = WeightTransferTrainerFactory.trainer_init(
            init_info, client=RayVLLMWeightSyncClient(list(engines)), source=self._source()
        )

    def _source(self) -> Any:
        from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource, materialize_full_tensor

        publisher = self

        class Published(WeightSource):
            def metadata(self) -> list[ParamMeta]:
                return [ParamMeta(name, t.dtype, tuple(t.shape)) for name, t in publisher._named_tensors]

            def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
                for name, tensor in publisher._named_tensors:
                    yield name, materialize_full_tensor(tensor.detach())

        return Published()


class NcclPublisher(_PushPublisher):
    """Broadcasts from learner rank 0 to every engine worker, each on devices of its own."""

    def connect(self, engines: Sequence[ActorHandle], tensor_parallel: int, address: str, port: int) -> None:
        """``address`` and ``port`` are free on rank 0's node and reachable from the engines."""
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        world_size = 1 + len(engines) * tensor_parallel
        self._connect(NCCLTrainerInitInfo(address, port, world_size, rank=self._rank), engines)


class IpcPublisher(_PushPublisher):
    """Hands the engines on the learners' own devices handles of the tensors."""

    def connect(self, engines: Sequence[ActorHandle], tensor_parallel: int, address: str, port: int) -> None:
        """They share devices: how many and where they meet does not matter."""
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        self._connect(IPCTrainerInitInfo(packed=True, rank=self._rank), engines)
