"""Micro-batches of tokens that nobody computed, for losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from al_ray.algorithms.batching import MicroBatch

LOGPROB = st.floats(-8, 0, width=32)
SAMPLED = st.floats(-8, -(2**-10), width=32)
"""Of what might have been drawn otherwise."""
TOKENS = st.lists(
    st.tuples(LOGPROB, SAMPLED, st.floats(-2, 2, width=32), st.integers(0, 2)), min_size=1, max_size=8
)
"""Of each token: its log-probability now and when it was sampled, its advantage, its call."""


def batch_of(
    sampled: Sequence[float],
    advantages: Sequence[float],
    calls: Sequence[int] | None = None,
    constrained: Sequence[bool] | None = None,
) -> MicroBatch:
    """Of tokens that weigh 1 each; every one a call of its own, and free, unless told."""
    nothing = torch.empty(0)
    numbers = list(range(len(sampled))) if calls is None else list(calls)
    return MicroBatch(
        *(nothing,) * 6,
        torch.tensor(sampled, dtype=torch.float64),
        None,
        torch.tensor(advantages, dtype=torch.float64),
        torch.ones(len(sampled)),
        torch.tensor(numbers),
        torch.tensor(constrained or [False] * len(sampled)),
        0,
    )


def variable(values: Sequence[float]) -> Tensor:
    """float64: finite differences need it."""
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)
