"""The model that a learner moves: loaded, asked for log-probabilities, and read out.

Master weights are float32, since steps of ordinary learning rates vanish in a bfloat16 weight.
``dtype`` is what the weights are published in, and for bfloat16 what a forward computes in; float16
has too little range for gradients, so its forward computes in float32.

transformers is imported when a model is loaded: whoever only holds a handle does not load it (10 s).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from al_ray.actors.learner.spec import Dtype
from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.token import token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(folder: str, device: torch.device) -> PreTrainedModel:
    """In evaluation mode: sharing prefixes is exact only without dropout."""
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    return cast("PreTrainedModel", model.to(device).eval())


def trained_logprobs(
    model: PreTrainedModel,
    batch: MicroBatch,
    dtype: Dtype,
    temperature: float,
    *,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of each trained token, ``[N]``; logits are computed at their
    predecessors only."""
    logits = _logits(
        model,
        dtype,
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=batch.predecessors,
    )
    return token_logprobs(logits, batch, temperature, entropy_gradient=entropy_gradient)


@torch.no_grad()
def sequence_logprobs(model: PreTrainedModel, token_ids: Sequence[int], dtype: Dtype) -> list[float]:
    """Of each token but the first, given those before it, at temperature 1."""
    ids = torch.tensor([list(token_ids)], device=model.device)
    logits = _logits(model, dtype, input_ids=ids)[:-1]
    selected = logits.float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return [float(value) for value in selected]


def named_tensors(model: PreTrainedModel, dtype: Dtype) -> Iterator[tuple[str, Tensor]]:
    """The weights by their checkpoint names, in ``dtype``; tied ones once."""
    for name, parameter in model.named_parameters():
        yield name, parameter.detach().to(getattr(torch, dtype))


def _logits(model: PreTrainedModel, dtype: Dtype, **inputs: Any) -> Tensor:
    """Of the one sequence that ``inputs`` are."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        return cast(Tensor, model(**inputs, use_cache=False).logits[0])
