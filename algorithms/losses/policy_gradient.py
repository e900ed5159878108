"""The loss of reinforcement: a surrogate, corrected, with what holds the policy back or keeps it open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.correction import Correction
from al_ray.algorithms.losses.kl import ESTIMATORS, k1, k3
from al_ray.algorithms.losses.ratio import bounded_exp
from al_ray.algorithms.losses.token import TokenLosses
from al_ray.types import Row


class Surrogate(Protocol):
    """What stands for the expected return of a token; a file each beside this one."""

    def __call__(self, logprobs: Tensor, log_ratio: Tensor, batch: MicroBatch, /) -> TokenLosses:
        """From the log-probabilities now, and their difference from those that the token is measured
        against, ``[N]``, both with gradients."""


@dataclass(frozen=True, slots=True)
class PolicyGradient:
    """Without a correction tokens are measured against the sampler's own log-probabilities; with one,
    against those that the policy had when the update began, and the correction makes up for the difference
    between these two (decoupled PPO, arXiv 2110.00641).

    Of a token that a grammar held, the sampler told the log-probability among what was allowed,
    ``log p - log m`` with ``m`` the probability of all of that, which nobody knows. Such a token is always
    measured against the policy that the update began with, and never corrected. So its gradient is that of
    ``log p`` instead of ``log p - log m``: the same in the mean where advantages are measured from what the
    state is worth, since ``m`` does not depend on what was drawn."""

    surrogate: Surrogate
    kl_coefficient: float = 0.0
    kl_estimator: str = "k3"
    entropy_coefficient: float = 0.0
    correction: Correction | None = None
    temperature: float = 1.0
    """The sampler's: it divides the logits."""
    every_row: bool = False
    """What makes advantages leaves no row without one, but for chance."""

    @property
    def needs_proximal(self) -> bool:
        return self.correction is not None

    def trains(self, row: Row) -> bool:
        """Whether the row has a gradient: without an advantage and without another term it has none."""
        other_terms = self.kl_coefficient > 0 or self.entropy_coefficient > 0
        return self.every_row or other_terms or bool(row.advantages.any())

    def __call__(self, logprobs: Tensor, reference: Tensor | None, batch: MicroBatch) -> TokenLosses:
        proximal = logprobs.detach() if batch.proximal is None else batch.proximal
        sampler = torch.where(batch.constrained, proximal, batch.logprobs)
        old = sampler if self.correction is None else proximal
        off_policy = torch.where(batch.constrained, 0.0, (logprobs - batch.logprobs).detach())
        allowed = torch.where(batch.constrained, (batch.logprobs - logprobs).detach(), 0.0)
        # Where nothing else could be drawn, for a grammar left nothing else (a tool that is demanded, a quote
        # that must come), the sampler's distribution has no gradient, though the learner's has.
        drawn = batch.logprobs < 0
        own = torch.where(drawn, logprobs, logprobs.detach())
        told = self.surrogate(own, torch.where(drawn, own - old, 0.0), batch)
        values = told.values
        metrics = {
            **told.metrics,
            "policy/ratio_mean": bounded_exp(off_policy),
            "off_policy/mismatch_kl": k3(-off_policy),
            "off_policy/certain": (~drawn).float(),
            "off_policy/constrained": batch.constrained.float(),
            "off_policy/constrained_kl": k1(allowed),
        }
        if self.correction is not None:
            weight = self.correction(torch.where(drawn, proximal - sampler, 0.0), batch.calls)
            values = values * weight
            metrics["off_policy/correction_mean"] = weight
        if reference is not None:
            kl = ESTIMATORS[self.kl_estimator](logprobs - reference)
            values = values + self.kl_coefficient * kl
            metrics["policy/kl"] = kl.detach()
        return TokenLosses(values, metrics)
