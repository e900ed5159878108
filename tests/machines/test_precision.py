"""What a model computes in where the recipe leaves it open."""

from __future__ import annotations

from typing import Literal

import pytest

from al_ray.machines.devices import Gpu
from al_ray.machines.precision import Dtype, natural_dtype

AMPERE, TURING = Gpu(8.0, 80 * 2**30), Gpu(7.5, 16 * 2**30)


@pytest.mark.parametrize(
    ("device", "flags", "gpus", "dtype", "why"),
    [
        ("cpu", {"avx2", "avx512f"}, [], "float32", "neither amx_bf16 nor avx512_bf16"),
        ("cpu", {"avx512_bf16"}, [], "bfloat16", "avx512_bf16"),
        ("cpu", {"amx_bf16", "avx512_bf16"}, [AMPERE], "bfloat16", "amx_bf16 and avx512_bf16"),
        ("gpu", set(), [AMPERE], "bfloat16", "GPUs multiply it"),
        ("gpu", {"amx_bf16"}, [AMPERE, TURING], "float32", "capability 7.5"),
        ("gpu", set(), [], "bfloat16", "GPUs multiply it"),
    ],
)
def test_it_is_bfloat16_where_the_device_multiplies_it(
    device: Literal["cpu", "gpu"], flags: set[str], gpus: list[Gpu], dtype: Dtype, why: str
) -> None:
    """All of the GPUs, and those that cannot be seen from here."""
    found, reason = natural_dtype(device, flags, gpus)
    assert found == dtype and why in reason
