"""What is measured of calls before they are given credit: their divergence from the reference, and what the
model makes of their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from al_ray.actors.learner.computation import Computation
from al_ray.actors.learner.model import computed_in, trained_logprobs
from al_ray.algorithms.batching import MicroBatch, in_order, pack
from al_ray.algorithms.losses.kl import ESTIMATORS
from al_ray.algorithms.losses.ratio import sum_of_call
from al_ray.algorithms.measured import CallId
from al_ray.machines.precision import Dtype
from al_ray.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Observations:
    """Of ``C`` calls. What was not asked for is empty: ``[0]``, ``[0, 0]``."""

    calls: Sequence[CallId]
    divergences: np.ndarray
    """float32 ``[C]``: estimates of KL(sampler || reference), summed over the response, in nats."""
    features: np.ndarray
    """float32 ``[C, H]``: the last hidden state of the prompt."""

    @classmethod
    def joined(cls, parts: Sequence[Observations]) -> Observations:
        """Those of several ranks."""
        some = [part for part in parts if part.calls] or parts[:1]
        return cls(
            [call for part in some for call in part.calls],
            np.concatenate([part.divergences for part in some]),
            np.concatenate([part.features for part in some]),
        )


@torch.no_grad()
def observe(
    model: PreTrainedModel,
    reference: PreTrainedModel | None,
    rows: Sequence[Row],
    how: Computation,
    dtype: Dtype,
    temperature: float,
    estimator: str,
    *,
    features: bool,
) -> Observations:
    """Divergences where there is a ``reference``, ``features`` where wanted."""
    ordered = in_order(rows)
    calls = [(row.rollout_id, int(call)) for row in ordered for call in np.unique(row.calls[row.trained])]
    divergences, states = [torch.empty(0)], [torch.empty(0, 0)]
    for batch in pack(ordered, how.packed_tokens):
        moved = batch.to(model.device)
        first = _first_of_calls(moved)
        if reference is not None:
            logprobs, _ = trained_logprobs(reference, moved, how, dtype, temperature)
            of_token = ESTIMATORS[estimator](moved.logprobs - logprobs)
            divergences.append(sum_of_call(of_token, moved.calls)[first].cpu())
        if features:
            with computed_in(model, dtype):
                states.append(how.hidden(model, moved)[moved.sources[first]].float().cpu())
    stated = torch.cat(states[1:] or states)
    return Observations(calls, torch.cat(divergences).numpy(), stated.numpy())


def _first_of_calls(batch: MicroBatch) -> Tensor:
    """``[C]``: where each call's first trained token stands, in the order of the calls' numbers."""
    numbers = batch.calls.cpu().numpy()
    return torch.from_numpy(np.unique(numbers, return_index=True)[1]).to(batch.calls.device)
