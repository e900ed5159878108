"""The clipped surrogate against a computation written out token by token."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.clipped import ClippedPolicyGradient

LOGPROB = st.floats(-8, 0, width=32)
TOKENS = st.lists(st.tuples(LOGPROB, LOGPROB, LOGPROB, st.floats(-2, 2, width=32)), min_size=1, max_size=8)


def batch_of(sampled: list[float], advantages: list[float]) -> MicroBatch:
    nothing = torch.empty(0)
    return MicroBatch(
        *(nothing,) * 6, torch.tensor(sampled), torch.tensor(advantages), torch.ones(len(sampled)), 0
    )


@given(TOKENS)
@settings(max_examples=100, deadline=None)
def test_clipped_policy_gradient_is_ppos_surrogate_plus_k3(
    tokens: list[tuple[float, float, float, float]],
) -> None:
    new, sampled, reference, advantages = (list(values) for values in zip(*tokens, strict=True))
    loss = ClippedPolicyGradient(clip_low=0.2, clip_high=0.3, kl_coefficient=0.1)
    result = loss(torch.tensor(new), torch.tensor(reference), batch_of(sampled, advantages))
    for i, (n, s, r, a) in enumerate(tokens):
        ratio = math.exp(n - s)
        kl = math.exp(r - n) - (r - n) - 1
        surrogate = min(ratio * a, min(max(ratio, 0.8), 1.3) * a)
        assert float(result.values[i]) == pytest.approx(-surrogate + 0.1 * kl, rel=1e-3, abs=1e-4)
        drift = float(result.metrics["off_policy/mismatch_kl"][i])
        assert drift == pytest.approx(ratio - 1 - (n - s), rel=1e-3, abs=1e-4)
        if abs(a) > 1e-3 and min(abs(ratio - 0.8), abs(ratio - 1.3)) > 1e-3:
            assert bool(result.metrics["policy/clip_frac"][i]) == (ratio > 1.3 if a > 0 else ratio < 0.8)


def test_a_clipped_token_has_no_gradient_and_an_unclipped_one_has_the_advantage_times_the_ratio() -> None:
    new = torch.tensor([0.0, -1.0], requires_grad=True)
    result = ClippedPolicyGradient(0.2, 0.2)(new, None, batch_of([-1.0, -1.1], [1.0, 2.0]))
    result.values.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([0.0, -2 * math.exp(0.1)])


def test_a_ratio_beyond_all_numbers_costs_a_number_and_leaves_the_other_tokens_their_gradients() -> None:
    new = torch.tensor([-1.0, -1.0, -1.0, -1.0], requires_grad=True)
    result = ClippedPolicyGradient(0.2, 0.2)(
        new, None, batch_of([-95.0, -95.0, -95.0, -1.1], [1.0, -1.0, 0.0, 2.0])
    )
    result.values.sum().backward()
    assert result.values.tolist() == pytest.approx([-1.2, math.exp(20), 0.0, -2 * math.exp(0.1)])
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([0.0, 0.0, 0.0, -2 * math.exp(0.1)])
    assert all(values.isfinite().all() for values in result.metrics.values())


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_that_is_large_but_below_the_bound_keeps_its_value_and_its_gradient(advantage: float) -> None:
    new = torch.tensor([-1.0], requires_grad=True)
    result = ClippedPolicyGradient(0.2, 0.2)(new, None, batch_of([-20.0], [advantage]))
    result.values.sum().backward()
    assert new.grad is not None
    unclipped = advantage < 0
    assert float(result.values.detach()) == pytest.approx(math.exp(19) if unclipped else -1.2)
    assert float(new.grad) == pytest.approx(math.exp(19) if unclipped else 0.0)
