"""The clipped surrogate of PPO."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.ratio import bounded_exp
from al_ray.algorithms.losses.token import TokenLosses


@dataclass(frozen=True, slots=True)
class Clipped:
    """``-min(r A, clip(r, 1 - low, 1 + high) A)`` of each token (PPO, arXiv 1707.06347, equation 7; with a
    ``high`` of its own, DAPO, arXiv 2503.14476, equation 10).

    With ``dual`` a token of negative advantage costs at most ``dual |A|`` and has no gradient beyond
    (dual clip, arXiv 1912.09729, equation 5): else one that became far likelier rules the batch.
    """

    low: float
    high: float
    dual: float | None = None

    def __call__(self, logprobs: Tensor, log_ratio: Tensor, batch: MicroBatch) -> TokenLosses:
        ratio = bounded_exp(log_ratio)
        return clip(ratio, batch.advantages, self.low, self.high, self.dual)


def clip(ratio: Tensor, advantages: Tensor, low: float, high: float, dual: float | None) -> TokenLosses:
    """All tensors ``[N]``; ``ratio`` carries the gradient."""
    plain = ratio * advantages
    clipped = ratio.clamp(1 - low, 1 + high) * advantages
    gain = torch.minimum(plain, clipped)
    bounded = clipped < plain
    if dual is not None:
        floor = dual * advantages
        bounded = bounded | ((advantages < 0) & (gain < floor))
        gain = torch.where(advantages < 0, torch.maximum(gain, floor), gain)
    return TokenLosses(-gain, {"policy/clip_frac": bounded.float()})
