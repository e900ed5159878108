"""All weights on every rank: gradients are summed over the ranks, and each takes the same step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from al_ray.actors.learner.holding.held import Found, Held
from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.optimization import FlatGradient

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Whole(Held):
    def __init__(self, model: PreTrainedModel, policies: Sequence[str], world_size: int) -> None:
        super().__init__(model, policies)
        self._gradients: dict[str, FlatGradient] = {}
        for policy in (*policies[1:], policies[0]):
            self.use(policy)
            self._gradients[policy] = FlatGradient([parameter for _, parameter in self.trained()])
        self._world_size = world_size

    @property
    def gradient(self) -> FlatGradient:
        """Of the policy in use."""
        return self._gradients[self._in_use]

    def compute(self, asked: Callable[[PreTrainedModel], Found]) -> Found:
        return asked(self.model)

    def even(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        return batches  # no rank waits for another meanwhile

    def zero_gradient(self) -> None:
        self.gradient.vector.zero_()

    def sum_gradient(self) -> None:
        if self._world_size > 1:
            dist.all_reduce(self.gradient.vector)

    def clip(self, max_norm: float) -> float:
        return self.gradient.clip(max_norm)

    def exchange(self, others: list[Tensor]) -> None:
        for index, (_, parameter) in enumerate(self.trained()):
            parameter.data, others[index] = others[index], parameter.data

    @torch.no_grad()
    def set(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.trained():
            parameter.copy_(values[name])

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        return tensor.to(like.device)
