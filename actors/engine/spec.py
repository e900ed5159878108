"""What an engine is started with: ours, as vLLM's arguments, and as variables of its process.

vLLM is imported when its arguments are made, so whoever only describes an engine does not load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from al_ray.recipe import LoraSection

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs


_LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM has room for."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything an engine is started with; the same for all engines of a pool."""

    model_path: str
    """A folder that transformers can load: policy version 0."""
    device: Literal["cpu", "gpu"]
    dtype: str
    max_length: int
    """Prompt and response tokens of one call together."""
    threads: int
    """On CPU: threads that compute."""
    kv_cache_gib: float
    """On CPU: memory of the key-value cache."""
    gpu_memory: float
    """On GPU: the fraction of the device's memory that vLLM may take."""
    max_running: int
    """Sequences advanced at once."""
    seed: int
    tensor_parallel: int = 1
    chat_template: str | None = None
    """Jinja text in place of the model's own template."""
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    weight_transfer: Literal["al_ray", "nccl", "ipc"] = "al_ray"
    """vLLM's weight transfer backend; ``al_ray.actors.weights.update`` says which to use where."""
    lora: LoraSection | None = None
    """What is loaded are adapters of the model, which itself stays as it is."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """By policy, the folders of those that it begins with; a policy without one is the model itself."""
    max_adapters: int = 1
    """Policies that have one, at most."""


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """The variables an engine's process must be started with (``runtime_env``'s ``env_vars``)."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if Path(spec.model_path).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    if spec.device == "cpu":
        # Ray would set the number of CPUs that the actor reserves.
        variables["OMP_NUM_THREADS"] = str(spec.threads)
        # The sampler's few compiled functions cost the first call 15 s and need a C++ compiler.
        variables["TORCH_COMPILE_DISABLE"] = "1"
    if spec.device == "cpu" and spec.tensor_parallel == 1:
        # Lets the engine's core process compute by itself instead of starting a third process.
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if spec.weight_transfer == "ipc":
        # CUDA handles reach the core process by pickle.
        variables["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    return variables


def engine_args(spec: EngineSpec) -> AsyncEngineArgs:
    """vLLM's form of the spec."""
    from vllm import AsyncEngineArgs
    from vllm.config import WeightTransferConfig

    args: dict[str, Any] = {
        "model": spec.model_path,
        "dtype": spec.dtype,
        "max_model_len": spec.max_length,
        "max_num_seqs": spec.max_running,
        "seed": spec.seed,
        "tensor_parallel_size": spec.tensor_parallel,
        "distributed_executor_backend": "uni" if spec.tensor_parallel == 1 else "mp",
        "reasoning_parser": spec.reasoning_parser or "",
        # Importance weights need the distribution that was sampled from, not the raw one.
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "weight_transfer_config": WeightTransferConfig(backend=spec.weight_transfer),
        "worker_extension_cls": "al_ray.actors.weights.receiver.WeightReceiver",
    }
    if spec.lora is not None:
        room = next(rank for rank in _LORA_RANKS if rank >= spec.lora.rank)
        args |= {
            "enable_lora": True,
            # On CPUs vLLM 0.32 computes what has no adapter, in a batch with others, with that of the last
            # place: one more stays empty.
            "max_loras": spec.max_adapters + (spec.device == "cpu"),
            "max_lora_rank": room,
            # With one beside the output head, vLLM 0.32 dies of a prompt's log-probabilities among others.
            "lora_target_modules": list(spec.lora.targets),
        }
    if spec.device == "cpu":
        args |= {
            "enforce_eager": True,
            "kv_cache_memory_bytes": int(spec.kv_cache_gib * 2**30),
            # Only whole blocks are shared between prompts, and the CPU's default of 128 tokens is
            # longer than many of them.
            "block_size": 32,
        }
    else:
        args |= {"gpu_memory_utilization": spec.gpu_memory}
    return AsyncEngineArgs(**args)
