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

    @property
    def entropy_coefficient(self) -> float:
        """What a nat of the entropy takes from a token's cost; above 0, it needs the entropy's gradient."""

    @property
    def needs_proximal(self) -> bool:
        """Whether, in an update of several optimizer steps, it needs the log-probabilities before the
        first."""

    def trains(self, row: Row) -> bool:
        """Whether the row has a gradient; one without is not computed."""

    def __call__(self, logprobs: Tensor, reference: Tensor | None, batch: MicroBatch, /) -> TokenLosses:
        """From the log-probabilities of the trained tokens, ``[N]``, now and under the reference."""


def token_logprobs(
    logits: Tensor, batch: MicroBatch, temperature: float, *, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability of each trained token, ``[N]``, and the entropy of the distribution it was drawn from,
    in nats, ``[N]``, detached unless ``entropy_gradient``; ``logits`` are those of ``batch.predecessors``,
    ``[P, V]``."""
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    normalizer = scaled.logsumexp(dim=-1)
    logprobs = scaled[batch.sources, batch.targets] - normalizer[batch.sources]
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        probabilities = (scaled - normalizer[:, None]).exp()
        entropy = normalizer - torch.linalg.vecdot(probabilities, scaled)
    return logprobs, entropy[batch.sources]
