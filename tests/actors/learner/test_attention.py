"""Attention by runs is attention under the mask that the runs stand for, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from al_ray.actors.learner import attention as module
from al_ray.actors.learner.attention import attention
from al_ray.algorithms.batching import MicroBatch, pack
from tests.algorithms.test_batching import groups_of_rollouts


def packed() -> MicroBatch:
    """Rows that fork at several depths, from trained tokens too, and that begin a trie of their own."""
    (batch,) = pack(groups_of_rollouts(), 10_000)
    assert len({parent for _, _, parent in batch.runs.tolist()}) > 5
    return batch


def heads(tokens: int, *counts: int, width: int = 8) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, count, tokens, width, generator=draw).requires_grad_() for count in counts]


@pytest.mark.parametrize("block", [1, 5, 128])
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_it_is_torchs_under_the_mask_and_so_are_its_gradients(
    shared: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever heads share keys, and however the runs are cut into blocks."""
    monkeypatch.setattr(module, "BLOCK", block)
    module._blocks.cache_clear()
    batch = packed()
    query, key, value = heads(batch.computed, 4, shared, shared)
    found, _ = attention(nn.Identity(), query, key, value, batch.runs[None, None], scaling=0.3)
    alike = [each.repeat_interleave(4 // shared, 1) for each in (key, value)]
    expected = functional.scaled_dot_product_attention(
        query, *alike, attn_mask=batch.attention_mask(), scale=0.3
    ).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        *(torch.autograd.grad((each * weights).sum(), (query, key, value)) for each in (found, expected))
    )
    module._blocks.cache_clear()


def test_under_autocast_the_products_are_bfloat16_and_the_weights_are_not() -> None:
    batch = packed()
    query, key, value = heads(batch.computed, 2, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attention(nn.Identity(), query, key, value, batch.runs[None, None])
        expected = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=batch.attention_mask()
        )
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.transpose(1, 2), atol=2e-2, rtol=2e-2)
    for gradient, exact in zip(
        torch.autograd.grad(found.float().sum(), (query, key, value)),
        torch.autograd.grad(expected.float().sum(), (query, key, value)),
        strict=True,
    ):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, exact, atol=5e-2, rtol=5e-2)


def test_with_another_mask_it_is_torchs_own() -> None:
    query, key, value = heads(7, 2, 2, 2)
    mask = torch.ones(1, 1, 7, 7, dtype=torch.bool).tril()
    layer = nn.Identity()
    layer.is_causal = True  # type: ignore[assignment]
    for told in (None, mask):
        found, _ = attention(layer, query, key, value, told)
        expected = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        torch.testing.assert_close(found, expected.transpose(1, 2))
