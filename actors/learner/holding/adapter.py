"""An adapter of low rank (LoRA, arXiv 2106.09685), which alone is trained.

peft puts it into the model: each layer that ``model.lora.targets`` names adds ``alpha / rank * B A x``. ``B``
begins as zeros, so the model begins as it was. The adapter is float32, as all that is trained; what is frozen
may be held in what is computed in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from al_ray.machines import adapters
from al_ray.machines.precision import Dtype
from al_ray.recipe import LoraSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_adapter(model: PreTrainedModel, section: LoraSection, seed: int) -> None:
    """The same one on every rank."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(r=section.rank, lora_alpha=section.alpha, target_modules=list(section.targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for module in model.modules():
        if isinstance(module, LoraLayer):  # or inputs would be cast to float32, and kept so, before autocast
            module.cast_input_dtype_enabled = False


def freeze_in(model: PreTrainedModel, dtype: Dtype) -> None:
    """Hold what is not trained in ``dtype``, where that is what is computed in."""
    if dtype == "bfloat16":
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)


def public_name(name: str) -> str:
    """Of a trained parameter, as peft writes it into files and vLLM reads it."""
    return f"base_model.model.{name.replace('.default.', '.')}"


def write(folder: Path, values: Mapping[str, Tensor], section: LoraSection, base: str) -> None:
    """What peft loads, into an existing folder; ``values`` by the parameters' own names."""
    from safetensors.torch import save_file

    named = {public_name(name): value.cpu().contiguous() for name, value in values.items()}
    save_file(named, folder / adapters.WEIGHTS, metadata={"format": "pt"})
    config = json.dumps(adapters.config(section, base), indent=2)
    (folder / adapters.CONFIG).write_text(config, encoding="utf-8")


def read(folder: Path) -> dict[str, Tensor]:
    """By the names that ``public_name`` gives."""
    from safetensors.torch import load_file

    return load_file(folder / adapters.WEIGHTS)
