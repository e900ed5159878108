"""Estimates of the divergence from a reference, KL(policy || reference), at tokens that the policy drew.

Schulman, Approximating KL Divergence, http://joschu.net/blog/kl-approx.html. ``log_ratio`` is
``log p - log q``, ``[N]``, for tokens drawn from p; each gives ``[N]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from al_ray.algorithms.losses.ratio import LARGEST_LOG


def k1(log_ratio: Tensor) -> Tensor:
    """Unbiased, of either sign. Its gradient is zero in the mean, so as a loss it only adds noise: use it
    to watch, or ``k2`` or ``k3`` to hold the policy back."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """Biased, never negative; its gradient is that of the divergence."""
    return log_ratio.square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """Unbiased and never negative (GRPO, arXiv 2402.03300, equation 4)."""
    return torch.expm1((-log_ratio).clamp(max=LARGEST_LOG)) + log_ratio


ESTIMATORS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {"k1": k1, "k2": k2, "k3": k3}
"""By the recipe's name (``stages.kl_estimator``)."""
