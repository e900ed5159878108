"""Ratios of probabilities, by their logarithms, that neither overflow nor turn a gradient into NaN."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

LARGEST_LOG: Final = 20.0
"""Of a ratio, half a billion: every clip and cap lies far below. A token beyond it keeps its value there and
has no gradient, where float32 would give infinity, and NaN behind it."""


def bounded_exp(log_ratio: Tensor) -> Tensor:
    """``exp``, flat beyond ``LARGEST_LOG``."""
    return log_ratio.clamp(max=LARGEST_LOG).exp()


def mean_of_call(values: Tensor, calls: Tensor) -> Tensor:
    """For each token the mean over the trained tokens of its call; both ``[N]``."""
    return sum_of_call(values, calls) / sum_of_call(torch.ones_like(values), calls)


def sum_of_call(values: Tensor, calls: Tensor) -> Tensor:
    """For each token the sum over the trained tokens of its call; both ``[N]``."""
    count = int(calls.max()) + 1 if calls.numel() else 0
    sums = torch.zeros(count, device=values.device, dtype=values.dtype)
    return sums.index_add(0, calls, values)[calls]
