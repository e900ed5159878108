"""What each trained token costs. The loss of a batch is the weighted sum over its tokens.

A loss sees one micro-batch at a time and returns one number a token; weights are the rows' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from al_ray.algorithms.batching import MicroBatch
from al_ray.types import Row


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """``values`` carries the gradient; ``metrics`` are detached. All of shape ``[N]``."""

    values: Tensor
    metrics: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Negative log-likelihood of the trained tokens."""

    temperature: float = 1.0
    kl_coefficient: float = 0.0

    def trains(self, row: Row) -> bool:
        return True

    def __call__(self, logprobs: Tensor, reference: Tensor | None, batch: MicroBatch) -> TokenLosses:
        return TokenLosses(-logprobs, {})


@dataclass(frozen=True, slots=True)
class ClippedPolicyGradient:
    """PPO's clipped surrogate (arXiv 1707.06347, equation 7) against the sampler's own probabilities,
    plus ``kl_coefficient`` times the k3 estimate of the KL to the reference (arXiv 2402.03300,
    equation 4)."""

    clip_low: float
    clip_high: float
    kl_coefficient: float = 0.0
    temperature: float = 1.0
    """The sampler's: it divides the logits."""

    def trains(self, row: Row) -> bool:
        """Whether the row has a gradient: without an advantage and without a KL term it has none."""
        return self.kl_coefficient > 0 or bool(row.advantages.any())

    def __call__(self, logprobs: Tensor, reference: Tensor | None, batch: MicroBatch) -> TokenLosses:
        log_ratio = logprobs - batch.logprobs
        ratio = log_ratio.exp()
        plain = ratio * batch.advantages
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * batch.advantages
        values = -torch.minimum(plain, clipped)
        metrics = {
            "clip_frac": (clipped < plain).float(),
            "ratio": ratio.detach(),
            "kl_sampler": k3(-log_ratio.detach()),
        }
        if reference is not None:
            kl = k3(logprobs - reference)
            values = values + self.kl_coefficient * kl
            metrics["kl"] = kl.detach()
        return TokenLosses(values, metrics)


Loss = CrossEntropy | ClippedPolicyGradient


def k3(log_ratio: Tensor) -> Tensor:
    """Unbiased, non-negative estimate of KL(p || q) at a token drawn from p, where ``log_ratio`` is
    ``log p - log q`` (Schulman, http://joschu.net/blog/kl-approx.html)."""
    return torch.expm1(-log_ratio) + log_ratio


def token_logprobs(logits: Tensor, batch: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each trained token, ``[N]``, and the entropy (detached) of the distribution it
    was drawn from, ``[N]``; ``logits`` are those of ``batch.predecessors``, ``[P, V]``."""
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    normalizer = scaled.logsumexp(dim=-1)
    logprobs = scaled[batch.sources, batch.targets] - normalizer[batch.sources]
    with torch.no_grad():
        probabilities = (scaled - normalizer[:, None]).exp_()
        entropy = normalizer - torch.linalg.vecdot(probabilities, scaled)
    return logprobs, entropy[batch.sources]
