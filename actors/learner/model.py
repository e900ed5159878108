"""The model that a learner moves: loaded, asked for log-probabilities, and read out.

What is trained is float32, since steps of ordinary learning rates vanish in a bfloat16 weight.
``dtype`` is what the weights are published in, and for bfloat16 what a forward computes in; float16
has too little range for gradients, so its forward computes in float32.

transformers is imported when a model is loaded: whoever only holds a handle does not load it (10 s).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import Tensor, nn

from al_ray.actors.learner.computation import Computation
from al_ray.actors.weights.update import NamedTensors
from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.head import head_logprobs
from al_ray.algorithms.losses.token import token_logprobs
from al_ray.machines.precision import Dtype
from al_ray.models.imports import transformers_alone

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_CAP: Final = re.compile(r"att.*(soft_?cap|logits?_(soft_)?cap)")
"""In the name of a soft cap of attention scores."""
_LAYER: Final = re.compile(r"(.*?\.\d+)\.")
"""At the beginning of the name of what a layer has."""


def load_model(folder: str, device: torch.device) -> PreTrainedModel:
    """In evaluation mode: sharing prefixes is exact only without dropout."""
    with transformers_alone():
        from transformers import AutoConfig, AutoModelForCausalLM

    capped = caps_attention(AutoConfig.from_pretrained(folder))
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager" if capped else None
    )
    return cast("PreTrainedModel", model.to(device).eval())


def caps_attention(config: PreTrainedConfig) -> bool:
    """Whether attention scores are soft-capped, as Gemma 2's: torch's own attention, which transformers
    takes where it may, leaves the cap out without a word."""
    named = config.get_text_config(decoder=True).to_dict()
    return any(_CAP.search(name) and value for name, value in named.items())


def trained_logprobs(
    model: PreTrainedModel,
    batch: MicroBatch,
    how: Computation,
    temperature: float,
    *,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of each trained token, ``[N]``; logits are computed at their
    predecessors only."""
    if how.head is None:
        with computed_in(model, how.dtype):
            logits = how.logits(model, batch)
        return token_logprobs(logits, batch, temperature, entropy_gradient=entropy_gradient)
    with computed_in(model, how.dtype):
        hidden = how.hidden(model, batch)
    head = how.head.of(model, torch.bfloat16 if how.dtype == "bfloat16" else torch.float32)
    return head_logprobs(hidden, head, batch, temperature, entropy_gradient=entropy_gradient)


@torch.no_grad()
def sequence_logprobs(model: PreTrainedModel, token_ids: Sequence[int], dtype: Dtype) -> list[float]:
    """Of each token but the first, given those before it, at temperature 1."""
    ids = torch.tensor([list(token_ids)], device=model.device)
    with computed_in(model, dtype):
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    selected = logits.float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return [float(value) for value in selected]


def computed_in(model: PreTrainedModel, dtype: Dtype) -> torch.autocast:
    return torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16")


def in_state(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and buffers that are kept in files, by their names in the model; tied ones once."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def in_files(model: PreTrainedModel, tensors: NamedTensors) -> Iterator[tuple[str, Tensor]]:
    """Some of ``in_state``, in its order, as the files of a checkpoint have them.

    Some models are held otherwise: the experts of a layer are one tensor (transformers 5), or layers have
    other names. A layer at a time is made into what is in files, so that no more is there twice."""
    from transformers.core_model_loading import revert_weight_conversion

    for _, layer in groupby(tensors, key=lambda named: match[1] if (match := _LAYER.match(named[0])) else ""):
        yield from revert_weight_conversion(model, dict(layer)).items()


def peak_bytes(device: torch.device) -> int:
    """The most that torch has held of a GPU, or this process of the machine's memory, since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
