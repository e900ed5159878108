"""Importance correction between the sampler and the policy that an update begins with.

Engines compute in another order and precision than learners, and may be some versions behind: a token that
the learner thinks likelier than the sampler did was drawn too rarely. A weight, detached, makes up for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from al_ray.algorithms.losses.ratio import bounded_exp, mean_of_call, sum_of_call

Level = Literal["token", "sequence", "geometric"]
Bound = Literal["truncate", "mask", "reject"]


@dataclass(frozen=True, slots=True)
class Correction:
    """What a token's loss is multiplied by.

    ``level`` says whose ratio: the token's own (truncated importance sampling, Yao et al., 2025, "Your
    efficient RL framework secretly brings you off-policy RL training"), that of its whole call, or the
    call's geometric mean a token (as in GSPO). ``bound`` says what becomes of it beyond ``cap``: ``truncate``
    takes the cap, ``mask`` drops the token, also below ``1 / cap`` (IcePop, arXiv 2510.18855), and ``reject``
    drops it likewise and weighs what is left by 1.
    """

    level: Level
    bound: Bound
    cap: float

    def __call__(self, log_ratio: Tensor, calls: Tensor) -> Tensor:
        """``[N]``, from ``log p_learner - log p_sampler`` and the call of each token."""
        ratio = bounded_exp(_LEVELS[self.level](log_ratio, calls))
        if self.bound == "truncate":
            return ratio.clamp(max=self.cap)
        kept = (ratio <= self.cap) & (ratio >= 1 / self.cap)
        return torch.where(kept, ratio if self.bound == "mask" else torch.ones_like(ratio), 0.0)


_LEVELS = {
    "token": lambda log_ratio, calls: log_ratio,
    "sequence": sum_of_call,
    "geometric": mean_of_call,
}
