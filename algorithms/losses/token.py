"""What a loss is, and what losses share: everything is of single trained tokens.

The loss of a batch is the weighted sum over its tokens. A loss sees one micro-batch at a time and
returns one number a token; weights are the rows' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from al_ray.algorithms.batching import MicroBatch
from al_ray.types import Row


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """``values`` carries the gradient; ``metrics`` are detached, and their means are logged by the same
    keys. All of shape ``[N]``."""

    values: Tensor
    metrics: Mapping[str, Tensor]


class Loss(Protocol):
    """What each trained token costs."""

    @property
    def temperature(self) -> float:
        """Divides the logits: the sampler's."""

    @property
    def kl_coefficient(self) -> float:
        """Above 0, the loss needs the log-probabilities of the reference."""

    def trains(self, row: Row) -> bool:
        """Whether the row has a gradient; one without is not computed."""

    def __call__(self, logprobs: Tensor, reference: Tensor | None, batch: MicroBatch, /) -> TokenLosses:
        """From the log-probabilities of the trained tokens, ``[N]``, now and under the reference."""


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
