"""What losses share, against computations written out."""

from __future__ import annotations

import pytest
import torch

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.token import k3, token_logprobs


def test_k3_averaged_over_p_is_the_divergence_from_p_to_q() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    log_ratio = (p / q).log()
    assert float((p * k3(log_ratio)).sum()) == pytest.approx(float((p * log_ratio).sum()), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_and_entropy_are_those_of_the_tempered_distribution(temperature: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 11, requires_grad=True)
    sources, targets = torch.tensor([0, 0, 2, 1]), torch.tensor([4, 4, 10, 0])
    nothing = torch.empty(0)
    batch = MicroBatch(*(nothing,) * 4, sources, targets, *(nothing,) * 3, 0)
    logprobs, entropy = token_logprobs(logits, batch, temperature)
    expected = (logits / temperature).log_softmax(-1)
    torch.testing.assert_close(logprobs, expected[sources, targets])
    torch.testing.assert_close(entropy, -(expected.exp() * expected).sum(-1)[sources])
    assert not entropy.requires_grad
