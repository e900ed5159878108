"""CISPO: the importance weight is clipped, not the gradient, so that no token falls silent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.ratio import bounded_exp
from al_ray.algorithms.losses.token import TokenLosses


@dataclass(frozen=True, slots=True)
class Cispo:
    """``-sg(clip(r, 1 - low, 1 + high)) A log p`` of each token (MiniMax-M1, arXiv 2506.13585, equations 4
    and 5; there without a lower bound: ``low`` 1)."""

    low: float
    high: float

    def __call__(self, logprobs: Tensor, log_ratio: Tensor, batch: MicroBatch) -> TokenLosses:
        ratio = bounded_exp(log_ratio.detach())
        weight = ratio.clamp(1 - self.low, 1 + self.high)
        metrics = {"policy/clip_frac": (weight != ratio).float()}
        return TokenLosses(-weight * batch.advantages * logprobs, metrics)
