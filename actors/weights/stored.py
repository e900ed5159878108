"""Weights that are stored, in safetensors files: their publishers, and how an engine reads them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, TYPE_CHECKING

from ray.exceptions import ObjectLostError

from al_ray.actors.weights.update import NamedTensors, WeightUpdate, policy_and_name
from al_ray.errors import DiskError, WeightsLostError

if TYPE_CHECKING:
    import torch

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "al_ray-weights-"
SHARD_BYTES = 2**29


async def local_files(update: WeightUpdate) -> AsyncIterator[str]:
    """The files of ``update`` on this node. Each can be read until the next is asked for, whoever removes it
    meanwhile, and no longer than this process lives. Ray brings a shard to a node once, for all that read it
    there. Raises ``WeightsLostError`` where they are gone."""
    gone = f"the weights of policy version {update.version} are gone with the learner that stored them"
    if update.path is not None:
        try:
            with open(update.path, "rb") as file:
                yield _as_path(file)
        except FileNotFoundError as error:
            raise WeightsLostError(f"{gone}: {update.path}") from error
    for shard in update.shards:
        try:
            held = await shard
        except ObjectLostError as error:
            raise WeightsLostError(gone) from error
        with open(os.memfd_create(PREFIX), "wb") as memory:
            memory.write(memoryview(held))
            memory.flush()
            yield _as_path(memory)


async def adapters_of(update: WeightUpdate) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of each policy's adapter, by their names in an adapter's file."""
    from safetensors.torch import load_file

    found: dict[str, dict[str, torch.Tensor]] = {}
    async for path in local_files(update):
        for name, tensor in load_file(path).items():
            policy, of_adapter = policy_and_name(name)
            found.setdefault(policy, {})[of_adapter] = tensor
    return found


@contextmanager
def as_file(tensors: Mapping[str, torch.Tensor]) -> Iterator[Path]:
    """A safetensors file in memory, which other processes of this node may read inside."""
    from safetensors.torch import save

    with open(os.memfd_create(PREFIX), "wb") as file:
        file.write(save(dict(tensors)))
        file.flush()
        yield Path(_as_path(file))


def _as_path(file: IO[bytes]) -> str:
    """By which other processes of this node open it, also when it has a name no more."""
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"


class SharedMemoryPublisher:
    """Writes each version to a file in shared memory.

    Two versions are kept: until the engines have all loaded the newer one, a replaced engine may
    still ask for the older. A publisher's folder is locked while its process lives, so what a killed
    one left behind is told from what a living one holds, and removed by the next.
    """

    def __init__(self, parent: Path = SHARED_MEMORY) -> None:
        for folder in parent.glob(f"{PREFIX}*/"):
            _remove_if_unlocked(folder)
        self._folder, self._lock = _locked_folder(parent)
        self._paths: list[Path] = []

    def publish(self, named_tensors: NamedTensors, version: int) -> WeightUpdate:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = self._folder / f"{version}.safetensors"
        try:
            save_file(_plain(named_tensors), path)
        except (OSError, SafetensorError) as error:
            raise DiskError.of(path, f"the weights of policy version {version}", error) from error
        self._paths = [*(other for other in self._paths if other != path), path]
        while len(self._paths) > 2:
            self._paths.pop(0).unlink()
        return WeightUpdate(version, path=str(path))

    def close(self) -> None:
        shutil.rmtree(self._folder)
        os.close(self._lock)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new one, with what holds its lock."""
    while True:
        folder = Path(mkdtemp(dir=parent, prefix=PREFIX))
        # Before it is locked, another publisher may take it for a killed one's.
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _remove_if_unlocked(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):  # its publisher has just closed, or is another user's
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except (BlockingIOError, FileNotFoundError, PermissionError):  # held, removed by another, or another's
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
