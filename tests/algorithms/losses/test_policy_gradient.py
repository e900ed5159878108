"""What stands beside the surrogate: divergence, correction, what a token is measured against."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.algorithms.losses.cispo import Cispo
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.correction import Correction
from al_ray.algorithms.losses.gspo import Gspo
from al_ray.algorithms.losses.kl import ESTIMATORS, k2, k3
from al_ray.algorithms.losses.policy_gradient import PolicyGradient, Surrogate
from tests.algorithms.losses.inputs import LOGPROB, TOKENS, batch_of, variable

Token = tuple[float, float, float, int]
PLAIN = Clipped(0.2, 0.3)


@given(TOKENS, LOGPROB, st.sampled_from(sorted(ESTIMATORS)))
@settings(max_examples=100, deadline=None)
def test_the_divergence_is_added_by_its_weight_as_estimated(
    tokens: list[Token], reference: float, estimator: str
) -> None:
    now, sampled, advantages, calls = map(list, zip(*tokens, strict=True))
    batch = batch_of(sampled, advantages, calls)
    logprobs = variable(now)
    plain = PolicyGradient(PLAIN)(logprobs, None, batch)
    loss = PolicyGradient(PLAIN, kl_coefficient=0.1, kl_estimator=estimator)
    found = loss(logprobs, torch.full((len(now),), reference, dtype=torch.float64), batch)
    for i, (n, s, _, _) in enumerate(tokens):
        log_ratio = n - reference
        kl = {"k1": log_ratio, "k2": log_ratio**2 / 2, "k3": math.exp(-log_ratio) + log_ratio - 1}[estimator]
        assert float((found.values - plain.values).detach()[i]) == pytest.approx(0.1 * kl, rel=1e-5, abs=1e-6)
        drift = math.exp(n - s) - 1 - (n - s)
        assert float(found.metrics["off_policy/mismatch_kl"][i]) == pytest.approx(drift, rel=1e-5, abs=1e-6)


def test_k3_averaged_over_p_is_the_divergence_from_p_to_q() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    log_ratio = (p / q).log()
    assert float((p * k3(log_ratio)).sum()) == pytest.approx(float((p * log_ratio).sum()), rel=1e-5)


def test_k2_has_the_gradient_of_the_divergence_in_the_mean() -> None:
    """Over all tokens, each as often as it is drawn; k1's is nothing."""
    q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    logits = variable([0.3, -0.2, 0.1])
    logp = logits.log_softmax(-1)
    drawn = logp.exp().detach()
    (divergence,) = torch.autograd.grad((logp.exp() * (logp - q.log())).sum(), logits, retain_graph=True)
    (of_k2,) = torch.autograd.grad((drawn * k2(logp - q.log())).sum(), logits, retain_graph=True)
    (of_k1,) = torch.autograd.grad((drawn * (logp - q.log())).sum(), logits)
    torch.testing.assert_close(of_k2, divergence)
    torch.testing.assert_close(of_k1, torch.zeros(3, dtype=torch.float64))


@given(
    TOKENS,
    st.sampled_from(["token", "sequence", "geometric"]),
    st.sampled_from(["truncate", "mask", "reject"]),
)
@settings(max_examples=200, deadline=None)
def test_a_correction_makes_up_for_what_the_sampler_drew_too_rarely(
    tokens: list[Token], level: str, bound: str
) -> None:
    """At the beginning of an update tokens are not clipped: what they cost is the advantage, by the bounded
    ratio between learner and sampler."""
    now, sampled, advantages, calls = map(list, zip(*tokens, strict=True))
    batch = batch_of(sampled, advantages, calls)
    logprobs = variable(now)
    correction = Correction(level, bound, 1.5)  # type: ignore[arg-type]
    found = PolicyGradient(PLAIN, correction=correction)(logprobs, None, batch)
    found.values.sum().backward()
    assert logprobs.grad is not None
    for i, (n, s, a, call) in enumerate(tokens):
        alike = [m - t for m, t, _, c in tokens if c == call]
        log = {"token": n - s, "sequence": sum(alike), "geometric": statistics.fmean(alike)}[level]
        ratio = math.exp(log)
        if min(abs(ratio - 1.5), abs(ratio - 1 / 1.5)) < 1e-6:
            continue
        inside = 1 / 1.5 <= ratio <= 1.5
        expected = {"truncate": min(ratio, 1.5), "mask": ratio * inside, "reject": float(inside)}[bound]
        assert float(found.values.detach()[i]) == pytest.approx(-expected * a, rel=1e-5, abs=1e-9)
        assert float(logprobs.grad[i]) == pytest.approx(-expected * a, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("surrogate", [PLAIN, Gspo(0.2, 0.3), Cispo(0.9, 0.3)])
@pytest.mark.parametrize("correction", [None, Correction("sequence", "truncate", 2.0)])
def test_a_token_that_could_not_be_drawn_otherwise_has_no_gradient_and_changes_no_others(
    surrogate: Surrogate, correction: Correction | None
) -> None:
    """As if it had been sampled and learnt from with probability 1, whatever the learner gives it."""
    gradients = []
    for forced in (-3.0, -0.1):
        logprobs = variable([-1.0, forced, -2.0])
        batch = batch_of([-1.1, 0.0, -1.9], [0.5, 0.5, 0.5], [0, 0, 0])
        found = PolicyGradient(surrogate, correction=correction)(logprobs, None, batch)
        found.values.sum().backward()
        assert logprobs.grad is not None and logprobs.grad[1] == 0
        assert found.metrics["off_policy/certain"].tolist() == [0, 1, 0]
        gradients.append(logprobs.grad.tolist())
    assert gradients[0] == pytest.approx(gradients[1]) and gradients[0][0] < 0


@pytest.mark.parametrize("surrogate", [PLAIN, Gspo(0.2, 0.3), Cispo(0.9, 0.3)])
@pytest.mark.parametrize("correction", [None, Correction("sequence", "truncate", 2.0)])
def test_a_token_that_a_grammar_held_is_measured_against_the_policy_and_told_apart(
    surrogate: Surrogate, correction: Correction | None
) -> None:
    """The learner gives it a tenth of what the sampler told, which would be clipped, or corrected, as if the
    policy had moved: it has the loss and the gradient of a token on policy, and others have theirs."""
    grammar = PolicyGradient(surrogate, correction=correction)
    logprobs, told = variable([-1.0, -3.3, -2.0]), [-1.1, -1.0, -1.9]
    batch = batch_of(told, [0.5, -0.5, 0.5], [0, 0, 1], [False, True, False])
    found = grammar(logprobs, None, batch)
    found.values.sum().backward()
    alike = variable([-1.0, -3.3, -2.0])
    on_policy = grammar(alike, None, batch_of([-1.1, -3.3, -1.9], [0.5, -0.5, 0.5], [0, 0, 1]))
    on_policy.values.sum().backward()
    assert logprobs.grad is not None and alike.grad is not None and logprobs.grad[1] != 0
    assert found.values.tolist() == on_policy.values.tolist()
    assert logprobs.grad.tolist() == alike.grad.tolist()
    for name in ("off_policy/mismatch_kl", "policy/ratio_mean", "policy/clip_frac"):
        assert found.metrics[name].tolist() == on_policy.metrics[name].tolist(), name
    assert found.metrics["off_policy/constrained"].tolist() == [0, 1, 0]
    assert found.metrics["off_policy/constrained_kl"].tolist() == pytest.approx([0, 2.3, 0])
    later = replace(batch, proximal=torch.tensor([-1.0, -3.0, -2.0], dtype=torch.float64))
    moved = grammar(logprobs, None, later).values[1].detach()
    fresh = batch_of(told, [0.5, -0.5, 0.5], [0, 0, 1])
    known = replace(
        fresh, logprobs=torch.tensor([-1.1, -3.0, -1.9], dtype=torch.float64), proximal=later.proximal
    )
    assert float(moved) == pytest.approx(float(grammar(logprobs, None, known).values[1].detach()))


@pytest.mark.parametrize("baseline", ["of the state", "none"])
def test_over_all_that_a_grammar_allows_the_gradient_is_that_of_the_expected_advantage(baseline: str) -> None:
    """Under the distribution that the answers are drawn from; exactly so with advantages of mean 0."""
    allowed = torch.tensor([True, True, False, True])
    logits = variable([0.5, -1.0, 2.0, 0.3])
    policy = logits.log_softmax(-1)
    held = policy[allowed] - policy[allowed].logsumexp(-1)
    advantages = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    if baseline == "of the state":
        advantages = advantages - (held.exp() * advantages).sum().detach()
    (expected,) = torch.autograd.grad((held.exp() * advantages).sum(), logits, retain_graph=True)
    batch = batch_of(held.tolist(), advantages.tolist(), None, [True] * 3)
    values = PolicyGradient(PLAIN)(policy[allowed], None, batch).values
    (found,) = torch.autograd.grad(-(held.exp().detach() * values).sum(), logits)
    assert torch.allclose(found, expected, atol=1e-9) == (baseline == "of the state")


def test_without_a_correction_tokens_are_measured_against_the_sampler() -> None:
    batch = batch_of([-2.0], [1.0])
    found = PolicyGradient(PLAIN)(variable([0.0]), None, batch)
    assert found.values.tolist() == [-1.3]


@pytest.mark.parametrize("surrogate", [Clipped(1.0, 99.0), Cispo(1.0, 99.0)])
@pytest.mark.parametrize("correction", [None, Correction("token", "truncate", 99.0)])
def test_tokens_that_older_weights_drew_have_the_gradient_of_the_policy_now(
    surrogate: Surrogate, correction: Correction | None
) -> None:
    """Over all tokens, each as often as the older weights draw it, and nothing clipped: that of the expected
    advantage under the policy as it is now."""
    older = torch.tensor([0.5, -1.0, 0.2, 0.0], dtype=torch.float64).log_softmax(-1)
    advantages = torch.tensor([1.0, -0.5, 2.0, -1.0], dtype=torch.float64)
    logits = variable([0.1, 0.4, -0.3, 0.6])
    logp = logits.log_softmax(-1)
    (expected,) = torch.autograd.grad((logp.exp() * advantages).sum(), logits, retain_graph=True)
    batch = batch_of(older.tolist(), advantages.tolist(), [0, 1, 2, 3])
    values = PolicyGradient(surrogate, correction=correction)(logp, None, batch).values
    (found,) = torch.autograd.grad((older.exp() * values).sum(), logits)
    torch.testing.assert_close(found, -expected, rtol=1e-5, atol=1e-6)
