"""What numbers a model computes in where the recipe leaves that to the machine (``model.dtype: auto``)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Literal

from al_ray.machines.devices import Gpu, cpu_flags, gpus
from al_ray.recipe import Recipe

Dtype = Literal["float32", "bfloat16", "float16"]

_UNITS: Final = ("amx_bf16", "avx512_bf16")
"""Of a CPU that multiplies bfloat16."""
_CAPABILITY: Final = 8.0
"""Of the first NVIDIA GPUs that do: Ampere."""


def natural_dtype(
    device: Literal["cpu", "gpu"], flags: Collection[str], there: Sequence[Gpu]
) -> tuple[Dtype, str]:
    """bfloat16 where the device multiplies it natively, else float32; and why. GPUs that nobody here can
    see, as those of a cluster, are taken for such."""
    if device == "gpu":
        least = min((gpu.capability for gpu in there), default=_CAPABILITY)
        if least < _CAPABILITY:
            return "float32", f"a GPU of compute capability {least} multiplies no bfloat16"
        return "bfloat16", "GPUs multiply it"
    if units := [unit for unit in _UNITS if unit in flags]:
        return "bfloat16", f"the CPU has {' and '.join(units)}"
    return "float32", f"the CPU has neither {' nor '.join(_UNITS)}"


def dtype_of(recipe: Recipe, device: Literal["cpu", "gpu"]) -> Dtype:
    """What engines and learners compute in; of a machine, this one's is taken."""
    chosen = recipe.model.dtype
    return natural_dtype(device, cpu_flags(), gpus())[0] if chosen == "auto" else chosen
