"""What is measured before an update: of calls the policy's divergence from the reference, and what the model
makes of their prompts; of tokens their log-probability under the policy that it begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from al_ray.actors.learner.computation import Computation
from al_ray.actors.learner.holding.held import Held
from al_ray.actors.learner.holding.kept import Kept
from al_ray.actors.learner.model import computed_in
from al_ray.algorithms.batching import MicroBatch, in_order, pack
from al_ray.algorithms.losses.kl import ESTIMATORS
from al_ray.algorithms.losses.ratio import sum_of_call
from al_ray.algorithms.measured import CallId
from al_ray.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Observations:
    """Of ``C`` calls. What was not asked for is empty: ``[0]``, ``[0, 0]``."""

    calls: Sequence[CallId]
    divergences: np.ndarray
    """float32 ``[C]``: estimates of KL(policy || reference), summed over those tokens of the response that
    no grammar held, in nats."""
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
    held: Held,
    reference: Kept | None,
    rows: Sequence[Row],
    how: Computation,
    temperature: float,
    estimator: str,
    *,
    features: bool,
) -> Observations:
    """Divergences where there is a ``reference``, ``features`` where wanted."""
    ordered = in_order(rows)
    calls = [(row.rollout_id, int(call)) for row in ordered for call in np.unique(row.calls[row.trained])]
    own = list(pack(ordered, how.packed_tokens))
    batches = [batch.to(held.model.device) for batch in held.even(own)]
    divergences, states = [torch.empty(0)], [torch.empty(0, 0)]
    if reference is not None:
        # Not those that were recorded: of an older sampler's divergence the gradient is another.
        own_logprobs = [held.logprobs(batch, how, temperature)[0] for batch in batches]
        with reference.in_place():
            for batch, logprobs in zip(batches, own_logprobs, strict=True):
                others, _ = held.logprobs(batch, how, temperature)
                # The reference was not held by the grammar that a token was.
                free = torch.where(batch.constrained, 0.0, logprobs - others)
                of_token = ESTIMATORS[estimator](free)
                of_call = sum_of_call(of_token, batch.calls)
                divergences.append(of_call[_first_of_calls(batch)].cpu())
    if features:
        for batch in batches:
            states.append(held.compute(partial(_states, batch=batch, how=how)))
    of_calls = torch.cat(divergences[: len(own) + 1])
    of_prompts = torch.cat(states[1 : len(own) + 1] or states[:1])
    return Observations(calls, of_calls.numpy(), of_prompts.numpy())


@torch.no_grad()
def with_proximal(
    held: Held, batches: Sequence[Sequence[Row]], how: Computation, temperature: float
) -> list[list[Row]]:
    """The same rows, with their log-probabilities under the policy as it is."""
    rows = in_order({id(row): row for batch in batches for row in batch}.values())
    own = list(pack(rows, how.packed_tokens))
    every = [batch.to(held.model.device) for batch in held.even(own)]
    found = [held.logprobs(batch, how, temperature)[0] for batch in every][: len(own)]
    values = iter(torch.cat(found).cpu().numpy()) if found else iter(())
    known = {}
    for row in rows:
        proximal = np.zeros(len(row.tokens), np.float32)
        proximal[row.trained] = list(islice(values, int(row.trained.sum())))
        known[id(row)] = replace(row, proximal=proximal)
    return [[known[id(row)] for row in batch] for batch in batches]


def _states(model: PreTrainedModel, batch: MicroBatch, how: Computation) -> Tensor:
    """``[C, H]``: the last hidden state of each call's prompt."""
    with computed_in(model, how.dtype):
        return how.hidden(model, batch)[batch.sources[_first_of_calls(batch)]].float().cpu()


def _first_of_calls(batch: MicroBatch) -> Tensor:
    """``[C]``: where each call's first trained token stands, in the order of the calls' numbers."""
    numbers = batch.calls.cpu().numpy()
    return torch.from_numpy(np.unique(numbers, return_index=True)[1]).to(batch.calls.device)
