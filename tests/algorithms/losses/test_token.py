"""What losses share, against computations written out."""

from __future__ import annotations

import pytest
import torch

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.token import token_logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_and_entropy_are_those_of_the_tempered_distribution(temperature: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 11, requires_grad=True)
    sources, targets = torch.tensor([0, 0, 2, 1]), torch.tensor([4, 4, 10, 0])
    nothing = torch.empty(0)
    batch = MicroBatch(*(nothing,) * 4, sources, targets, *(nothing,) * 6, 0)
    logprobs, entropy = token_logprobs(logits, batch, temperature)
    expected = (logits / temperature).log_softmax(-1)
    torch.testing.assert_close(logprobs, expected[sources, targets])
    torch.testing.assert_close(entropy, -(expected.exp() * expected).sum(-1)[sources])
    assert not entropy.requires_grad


def test_the_entropy_has_its_gradient_where_a_loss_asks_for_it() -> None:
    logits = torch.randn(2, 5, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    nothing = torch.empty(0)
    sources = torch.tensor([1, 0, 1])
    batch = MicroBatch(*(nothing,) * 4, sources, torch.tensor([0, 1, 2]), *(nothing,) * 6, 0)
    _, entropy = token_logprobs(logits, batch, 0.7, entropy_gradient=True)
    (found,) = torch.autograd.grad(entropy.sum(), logits)
    scaled = (logits / 0.7).log_softmax(-1)
    (expected,) = torch.autograd.grad(-(scaled.exp() * scaled).sum(-1)[sources].sum(), logits)
    torch.testing.assert_close(found, expected)
