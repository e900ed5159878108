"""What is computed again in the backward pass is what was computed, and less is kept meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from al_ray.actors.learner.computation import computation
from al_ray.actors.learner.model import trained_logprobs
from al_ray.actors.learner.recomputation import recompute_layers
from al_ray.algorithms.batching import pack
from tests.actors.learner.test_computation import BUDGET, LONGEST, built, gradient, rows


def update(model: PreTrainedModel) -> tuple[Tensor, Tensor, int]:
    """Log-probabilities, the gradient, and the bytes that the forward pass kept for it."""
    how = computation(model, LONGEST, BUDGET)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    (batch,) = pack(rows(groups=1), BUDGET)
    nothing: Any = lambda tensor: tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, nothing):
        logprobs, _ = trained_logprobs(model, batch, how, 1.0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    (logprobs * batch.weights / 1e4).sum().backward()
    return logprobs.detach(), gradient(model), sum(size for at, size in kept.items() if at not in weights)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "lfm2_moe", "opt", "qwen3_moe"])
def test_logprobs_and_gradients_are_the_same_and_less_is_kept(architecture: str) -> None:
    """Also of a layer that has dropout, which stays off."""
    model = built(architecture, num_hidden_layers=6) if architecture == "llama" else built(architecture)
    logprobs, expected, kept = update(model)
    assert recompute_layers(model) > 0
    again, found, less = update(model)
    torch.testing.assert_close(again, logprobs)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert less < kept / (2 if architecture == "llama" else 1)
