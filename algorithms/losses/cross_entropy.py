"""Cross-entropy: imitates, whatever the advantages."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.token import TokenLosses
from al_ray.types import Row


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Negative log-likelihood of the trained tokens."""

    temperature: float = 1.0
    kl_coefficient: float = 0.0
    entropy_coefficient: float = 0.0
    needs_proximal: bool = False

    def trains(self, row: Row) -> bool:
        return True

    def __call__(self, logprobs: Tensor, reference: Tensor | None, batch: MicroBatch) -> TokenLosses:
        return TokenLosses(-logprobs, {})
