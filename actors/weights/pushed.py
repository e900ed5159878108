"""Weights that are pushed: from the learners' devices into those of paused engines.

vLLM's own trainer engine drives the transfer. vLLM is imported when the engines are first met.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from al_ray.actors.weights.update import NamedTensors, WeightUpdate

if TYPE_CHECKING:
    import torch
    from ray.actor import ActorHandle


class PushingPublisher(ABC):
    """Over devices: ``connect`` whenever the engines are others, then for each version ``publish`` and,
    engines paused, ``send``.

    All three are called on every learner rank, since gathering sharded tensors is collective; rank
    0 alone speaks with the engines.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._named_tensors: list[tuple[str, torch.Tensor]] = []
        self._in_files: Callable[[NamedTensors], NamedTensors] = iter
        self._trainer: Any = None

    def publish(
        self, named_tensors: NamedTensors, in_files: Callable[[NamedTensors], NamedTensors], version: int
    ) -> WeightUpdate:
        """``in_files`` makes of tensors in one piece, also of mere shapes, what a checkpoint has."""
        self._named_tensors, self._in_files = list(named_tensors), in_files
        return WeightUpdate(version)

    def connect(self, engines: Sequence[ActorHandle], tensor_parallel: int, address: str, port: int) -> None:
        """``address`` and ``port`` are free on rank 0's node and reachable from the engines."""
        from vllm.distributed.weight_transfer.clients import RayVLLMWeightSyncClient
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        self.close()  # what the last ones were sent over keeps memory of the device
        self._trainer = WeightTransferTrainerFactory.trainer_init(
            self._init_info(len(engines) * tensor_parallel, address, port),
            client=RayVLLMWeightSyncClient(list(engines)),
            source=self._source(),
        )

    def send(self) -> None:
        self._trainer.send_weights()

    def close(self) -> None:
        if self._trainer is not None:
            self._trainer.shutdown()
            self._trainer = None

    @abstractmethod
    def _init_info(self, workers: int, address: str, port: int) -> Any:
        """What vLLM's trainer engine is started with."""

    def _source(self) -> Any:
        import torch
        from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource, materialize_full_tensor

        publisher = self

        class Published(WeightSource):
            def metadata(self) -> list[ParamMeta]:
                held = publisher._named_tensors
                shapes = ((n, torch.empty(t.shape, dtype=t.dtype, device="meta")) for n, t in held)
                found = publisher._in_files(shapes)
                return [ParamMeta(name, t.dtype, tuple(t.shape)) for name, t in found]

            def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
                held = publisher._named_tensors
                whole = ((name, materialize_full_tensor(tensor.detach())) for name, tensor in held)
                yield from publisher._in_files(whole)

        return Published()


class NcclPublisher(PushingPublisher):
    """Broadcasts from learner rank 0 to every engine worker, each on devices of its own."""

    def _init_info(self, workers: int, address: str, port: int) -> Any:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo(address, port, 1 + workers, rank=self._rank)


class IpcPublisher(PushingPublisher):
    """Hands the engines on the learners' own devices handles of the tensors.

    They share devices: how many and where they meet does not matter.
    """

    def _init_info(self, workers: int, address: str, port: int) -> Any:
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(packed=True, rank=self._rank)
