"""The clipped surrogate of PPO, with a KL term where one is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.token import TokenLosses, k3
from al_ray.types import Row

_MOST: Final = 20.0
"""Log-ratios count as at most this, a ratio of 5e8: ``exp`` of 89 is no number, and one such token would be
the refusal of its whole batch. Where the advantage is positive the ratio is clipped long before; where it is
negative, the surrogate has no bound of its own, and a token beyond this one costs what one at it does and
has no gradient."""


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
        log_ratio = (logprobs - batch.logprobs).clamp(max=_MOST)
        ratio = log_ratio.exp()
        plain = ratio * batch.advantages
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * batch.advantages
        values = -torch.minimum(plain, clipped)
        metrics = {
            "policy/clip_frac": (clipped < plain).float(),
            "policy/ratio_mean": ratio.detach(),
            "off_policy/mismatch_kl": k3(-log_ratio.detach()),
        }
        if reference is not None:
            kl = k3(logprobs - reference)
            values = values + self.kl_coefficient * kl
            metrics["policy/kl"] = kl.detach()
        return TokenLosses(values, metrics)
