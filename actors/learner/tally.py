"""What the micro-batches of an update add up to, over all ranks, and the metrics that come of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.token import Loss
from al_ray.types import Row

_TOKENS = "learner/trained_tokens"
_LOSS = "optim/loss"
_TOTALS = (
    _LOSS,
    _TOKENS,
    "learner/computed_tokens",
    "learner/shared_tokens",
    "learner/micro_batches",
)


OF_POLICIES = (_LOSS, "optim/grad_norm", "policy/entropy", _TOKENS)
"""What is told of each of several policies too: under the key, a slash and its name."""


def moves(norm: float) -> bool:
    """Whether a step is taken whose gradient has this norm."""
    return math.isfinite(norm) and norm > 0


def of_norms(norms: Sequence[float]) -> dict[str, float]:
    """Metrics of optimizer steps, by the norms of their gradients."""
    refused = sum(not math.isfinite(norm) for norm in norms)
    return {
        "optim/grad_norm": math.fsum(norms) / len(norms),
        "optim/steps": float(sum(map(moves, norms))),
        "optim/steps_refused": float(refused),
        "optim/steps_empty": float(norms.count(0.0)),
        "health/steps_refused": refused / len(norms),
    }


def worth_computing(rows: Sequence[Row], loss: Loss) -> tuple[list[Row], dict[str, float]]:
    """The rows of a batch that have a gradient, and metrics of how many have."""
    kept = [row for row in rows if loss.trains(row)]
    told = {
        "learner/rows": float(len(rows)),
        "learner/rows_without_advantage": float(len(rows) - len(kept)),
    }
    of_policies = Counter(row.policy for row in rows if row.policy)
    told |= {f"learner/rows/{policy}": float(count) for policy, count in of_policies.items()}
    return kept, told


@dataclass(slots=True)
class Tally:
    """Sums over trained tokens or micro-batches, and the one maximum."""

    sums: Counter[str] = field(default_factory=Counter)
    ratio_max: float = 0.0

    @classmethod
    def of(cls, batch: MicroBatch, loss: Tensor, per_token: Mapping[str, Tensor]) -> Tally:
        """One micro-batch's: its loss, and metrics that have a value a trained token."""
        ratio = per_token.get("policy/ratio_mean")
        sums = {name: float(values.sum()) for name, values in per_token.items()}
        totals = {
            _LOSS: float(loss),
            _TOKENS: len(batch.targets),
            "learner/computed_tokens": batch.computed,
            "learner/shared_tokens": batch.saved,
            "learner/micro_batches": 1,
        }
        return cls(Counter(sums | totals), 0.0 if ratio is None else float(ratio.max()))

    def add(self, other: Tally) -> None:
        self.sums.update(other.sums)
        self.ratio_max = max(self.ratio_max, other.ratio_max)

    def metrics(self, steps: int) -> dict[str, float]:
        """Of an update of so many optimizer steps: the loss of a step, other totals as they are, token
        metrics as means over trained tokens."""
        totals = {name: float(self.sums[name]) for name in _TOTALS}
        totals[_LOSS] /= steps
        means = {name: v / self.sums[_TOKENS] for name, v in self.sums.items() if name not in _TOTALS}
        return totals | means | ({"policy/ratio_max": self.ratio_max} if "policy/ratio_mean" in means else {})
