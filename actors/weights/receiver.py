"""The worker's side of ``al_ray`` weight transfer: weights arrive as safetensors files.

vLLM imports this module in every worker because ``WeightReceiver`` is the engine's
``worker_extension_cls``; importing it registers the transfer engine. The path is all that crosses
vLLM's RPC, which would turn tensors into lists.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.fused_moe.fused_moe_method_base import FusedMoEMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

BACKEND = "al_ray"

# What vLLM's modules made stays: it would be looked through three times while the model is loaded (2 s).
gc.freeze()


@dataclass
class FileInitInfo(WeightTransferInitInfo):
    """Files need no rendezvous."""


@dataclass
class FileUpdateInfo(WeightTransferUpdateInfo):
    """One chunk of an update: a safetensors file on this node, with Hugging Face names."""

    path: str


class FileWeightTransferEngine(WeightTransferEngine[FileInitInfo, FileUpdateInfo]):
    """Loads checkpoint-format tensors from files into the running model.

    It reloads layer by layer because the CPU kernels keep weights in a packed form of their own,
    into which nothing can be copied.
    """

    init_info_cls = FileInitInfo
    update_info_cls = FileUpdateInfo

    def init_transfer_engine(self, init_info: FileInitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        # Before the reload takes tied weights apart.
        self._missing = {name for name, _ in self.model.named_parameters()}
        for layer in self.model.modules():
            if isinstance(getattr(layer, "quant_method", None), FusedMoEMethodBase):
                # Experts' weights are packed where there is no kernel yet; else what comes would be computed
                # with as if it were packed.
                layer.quant_method.moe_kernel = None
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FileUpdateInfo) -> None:
        with safe_open(update_info.path, framework="pt", device=str(self.device)) as file:
            names = list(file.keys())
            self._missing -= self.model.load_weights((name, file.get_tensor(name)) for name in names)

    def finish_weight_update(self) -> None:
        # vLLM would go on with the old values of what did not come.
        if self._missing:
            raise ValueError(f"the update lacks weights of the model: {sorted(self._missing)}")
        finalize_layerwise_reload(self.model, self.model_config)
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead):
                # Tied to the embeddings, it received nothing itself, and still computes with the packed
                # copy of their old values.
                layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        pass


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, FileWeightTransferEngine)


class WeightReceiver:
    """Adds nothing to the worker: naming it makes vLLM import this module."""
