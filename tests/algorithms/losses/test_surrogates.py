"""Each surrogate against a computation written out token by token, and its gradient by differences."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.algorithms.losses.cispo import Cispo
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.gspo import Gspo
from al_ray.algorithms.losses.policy_gradient import Surrogate
from tests.algorithms.losses.inputs import TOKENS, batch_of, variable

Token = tuple[float, float, float, int]
SURROGATES: list[Surrogate] = [Clipped(0.2, 0.3), Clipped(0.2, 0.3, 2.5), Gspo(0.2, 0.3), Cispo(0.9, 0.3)]


def clip(ratio: float, advantage: float, dual: float | None = None) -> float:
    gain = min(ratio * advantage, min(max(ratio, 0.8), 1.3) * advantage)
    return max(gain, dual * advantage) if dual is not None and advantage < 0 else gain


@given(TOKENS, st.sampled_from([None, 2.5]))
@settings(max_examples=150, deadline=None)
def test_clipped_is_ppos_surrogate_and_a_dual_clip_bounds_what_a_bad_token_costs(
    tokens: list[Token], dual: float | None
) -> None:
    now, sampled, advantages, calls = map(list, zip(*tokens, strict=True))
    batch = batch_of(sampled, advantages, calls)
    logprobs = variable(now)
    found = Clipped(0.2, 0.3, dual)(logprobs, logprobs - batch.logprobs, batch)
    for i, (n, s, a, _) in enumerate(tokens):
        ratio = math.exp(n - s)
        assert float(found.values.detach()[i]) == pytest.approx(-clip(ratio, a, dual), rel=1e-6, abs=1e-9)
        if dual is not None and a < 0:
            assert float(found.values.detach()[i]) <= dual * -a + 1e-9
        edges = [0.8, 1.3] + ([dual] if dual else [])
        if abs(a) > 1e-3 and min(abs(ratio - edge) for edge in edges) > 1e-3:
            beyond = ratio > 1.3 if a > 0 else ratio < 0.8 or (dual is not None and ratio > dual)
            assert bool(found.metrics["policy/clip_frac"][i]) == beyond


@given(TOKENS)
@settings(max_examples=150, deadline=None)
def test_gspo_clips_the_mean_ratio_of_each_call(tokens: list[Token]) -> None:
    now, sampled, advantages, calls = map(list, zip(*tokens, strict=True))
    batch = batch_of(sampled, advantages, calls)
    logprobs = variable(now)
    found = Gspo(0.2, 0.3)(logprobs, logprobs - batch.logprobs, batch)
    for i, (_, _, a, call) in enumerate(tokens):
        ratio = math.exp(statistics.fmean(n - s for n, s, _, c in tokens if c == call))
        assert float(found.values.detach()[i]) == pytest.approx(-clip(ratio, a), rel=1e-6, abs=1e-9)


def test_the_gradient_of_gspo_is_that_of_the_call_as_a_whole() -> None:
    """Of ``-s A`` with ``s = exp(mean log r)``, when the tokens of the call weigh a third each."""
    now, sampled = [-1.0, -2.0, -0.5], [-1.1, -1.9, -0.6]
    batch = batch_of(sampled, [2.0] * 3, [0] * 3)
    tokens, whole = variable(now), variable(now)
    (Gspo(0.2, 0.3)(tokens, tokens - batch.logprobs, batch).values / 3).sum().backward()
    (-(whole - batch.logprobs).mean().exp() * 2.0).backward()
    assert tokens.grad is not None
    torch.testing.assert_close(tokens.grad, whole.grad)


@given(TOKENS)
@settings(max_examples=150, deadline=None)
def test_cispo_weighs_the_gradient_of_every_token_by_its_clipped_ratio(tokens: list[Token]) -> None:
    now, sampled, advantages, calls = map(list, zip(*tokens, strict=True))
    batch = batch_of(sampled, advantages, calls)
    logprobs = variable(now)
    Cispo(0.9, 0.3)(logprobs, logprobs - batch.logprobs, batch).values.sum().backward()
    assert logprobs.grad is not None
    expected = [-min(max(math.exp(n - s), 0.1), 1.3) * a for n, s, a, _ in tokens]
    assert logprobs.grad.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_clipped_token_has_no_gradient_and_an_unclipped_one_has_the_advantage_times_the_ratio() -> None:
    batch = batch_of([-1.0, -1.1, -3.0], [1.0, 2.0, -1.0])
    logprobs = variable([0.0, -1.0, 0.0])
    Clipped(0.2, 0.2, 3.0)(logprobs, logprobs - batch.logprobs, batch).values.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, -2 * math.exp(0.1), 0.0])


@given(TOKENS)
@settings(max_examples=60, deadline=None)
def test_the_gradient_of_the_clipped_surrogate_is_its_slope(tokens: list[Token]) -> None:
    now, sampled, advantages, calls = map(list, zip(*tokens, strict=True))
    edges = (math.log(0.8), math.log(1.3), math.log(2.5))
    if any(abs(n - s - edge) < 1e-3 for n, s, _, _ in tokens for edge in edges):
        return  # there is no slope at a corner
    batch = batch_of(sampled, advantages, calls)

    def total(values: torch.Tensor) -> torch.Tensor:
        return Clipped(0.2, 0.3, 2.5)(values, values - batch.logprobs, batch).values.sum()

    assert torch.autograd.gradcheck(total, (variable(now),), eps=1e-6, atol=1e-4)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("log_ratio", [94.0, 900.0, -900.0])
def test_no_ratio_is_too_large_for_a_number(surrogate: Surrogate, advantage: float, log_ratio: float) -> None:
    """A token that became likelier by e^94 overflows float32, and its gradient would be NaN."""
    logprobs = torch.tensor([log_ratio], dtype=torch.float32, requires_grad=True)
    found = surrogate(logprobs, logprobs - torch.zeros(1), batch_of([0.0], [advantage]))
    found.values.sum().backward()
    assert logprobs.grad is not None
    assert found.values.isfinite().all() and logprobs.grad.isfinite().all()
