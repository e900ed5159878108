"""Group Sequence Policy Optimization: whole responses are likelier or not, and clipped as wholes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.clipped import clip
from al_ray.algorithms.losses.ratio import bounded_exp, mean_of_call
from al_ray.algorithms.losses.token import TokenLosses


@dataclass(frozen=True, slots=True)
class Gspo:
    """PPO's clip of ``s = exp(mean_t log r_t)``, the mean over the tokens of a call (arXiv 2507.18071,
    equations 5 to 7), in its token form (equation 14): a token has the value of its call and the gradient
    ``s A grad log p_t``. The mean over a call's tokens (``aggregate: call_mean``) makes it equation 5.
    """

    low: float
    high: float
    dual: float | None = None

    def __call__(self, logprobs: Tensor, log_ratio: Tensor, batch: MicroBatch) -> TokenLosses:
        of_call = mean_of_call(log_ratio.detach(), batch.calls)
        ratio = bounded_exp(of_call + (log_ratio - log_ratio.detach()))
        return clip(ratio, batch.advantages, self.low, self.high, self.dual)
