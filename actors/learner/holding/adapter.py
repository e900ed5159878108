"""Adapters of low rank (LoRA, arXiv 2106.09685), which alone are trained: one for each policy.

peft puts them into the model: each layer that ``model.lora.targets`` names adds ``alpha / rank * B A x`` of
the policy in use. ``B`` begins as zeros, so the model begins as it was. Adapters are float32, as all that is
trained; what is frozen may be held in what is computed in.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from al_ray.machines.precision import Dtype
from al_ray.models import adapters
from al_ray.recipe import LoraSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_IN_NAMES: Final = ".lora_"
"""Of the parameters of adapters."""


def add_adapters(model: PreTrainedModel, section: LoraSection, policies: Iterable[str], seed: int) -> None:
    """The same on every rank; each as it would be alone. The first is in use."""
    from peft import LoraConfig, inject_adapter_in_model

    names = list(policies)
    for policy in names:
        config = LoraConfig(r=section.rank, lora_alpha=section.alpha, target_modules=list(section.targets))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that there are several
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model, _key(policy))
    for layer in _layers(model):  # or inputs would be cast to float32, and kept so, before autocast
        layer.cast_input_dtype_enabled = False
    use(model, names[0])


def use(model: PreTrainedModel, policy: str) -> None:
    """Compute with its adapter, and no other, from now on."""
    for layer in _layers(model):
        layer.set_adapter(_key(policy))
    for name, parameter in model.named_parameters():  # peft has those in use alone ask for a gradient
        if _IN_NAMES in name:
            parameter.requires_grad_(True)


def is_of(policy: str, name: str) -> bool:
    """Whether the parameter of that name is of the policy's adapter."""
    return f".{_key(policy)}." in name


def _key(policy: str) -> str:
    """What peft calls its adapter: a name that a module's attribute may have, and none of torch's own."""
    return f"policy_{policy}"


def _layers(model: PreTrainedModel) -> Iterator[Any]:
    from peft.tuners.lora import LoraLayer

    return (module for module in model.modules() if isinstance(module, LoraLayer))


def freeze_in(model: PreTrainedModel, dtype: Dtype) -> None:
    """Hold what is not trained in ``dtype``, where that is what is computed in."""
    if dtype == "bfloat16":
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)


def public_name(policy: str, name: str) -> str:
    """Of a parameter of the policy's adapter, as peft writes it into files and vLLM reads it."""
    return f"base_model.model.{name.replace(f'.{_key(policy)}.', '.')}"


def write(folder: Path, values: Mapping[str, Tensor], section: LoraSection, base: str) -> None:
    """What peft loads, into an existing folder; ``values`` by the names that ``public_name`` gives."""
    from safetensors.torch import save_file

    named = {name: value.cpu().contiguous() for name, value in values.items()}
    save_file(named, folder / adapters.WEIGHTS, metadata={"format": "pt"})
    config = json.dumps(adapters.config(section, base), indent=2)
    (folder / adapters.CONFIG).write_text(config, encoding="utf-8")


def read(folder: Path) -> dict[str, Tensor]:
    """By the names that ``public_name`` gives."""
    from safetensors.torch import load_file

    return load_file(folder / adapters.WEIGHTS)
