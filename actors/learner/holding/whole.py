"""All weights on every rank: gradients are summed over the ranks, and each takes the same step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.optimization import FlatGradient

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Found = TypeVar("Found")


class Whole:
    """The model with what is trained of it: the parameters that ask for a gradient."""

    def __init__(self, model: PreTrainedModel, world_size: int) -> None:
        self.model = model
        self.gradient = FlatGradient(model)
        self._world_size = world_size

    def compute(self, asked: Callable[[PreTrainedModel], Found]) -> Found:
        """What ``asked`` makes of the model."""
        return asked(self.model)

    def even(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """What this rank has to compute: its own, for no rank waits for another meanwhile."""
        return batches

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """By their names in the model; tied ones once."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def zero_gradient(self) -> None:
        self.gradient.vector.zero_()

    def sum_gradient(self) -> None:
        """Over all ranks, in place."""
        if self._world_size > 1:
            dist.all_reduce(self.gradient.vector)

    def clip(self, max_norm: float) -> float:
        """See ``FlatGradient.clip``."""
        return self.gradient.clip(max_norm)

    def values(self) -> list[Tensor]:
        """A copy of what is trained, as this rank holds it."""
        return [parameter.detach().clone() for _, parameter in self.trained()]

    def exchange(self, others: list[Tensor]) -> None:
        """What is trained takes the values of ``others``, and these its own."""
        for index, (_, parameter) in enumerate(self.trained()):
            parameter.data, others[index] = others[index], parameter.data

    @torch.no_grad()
    def set(self, values: Mapping[str, Tensor]) -> None:
        """What is trained takes these values, by name, each whole."""
        for name, parameter in self.trained():
            parameter.copy_(values[name])

    def whole(self, tensor: Tensor) -> Tensor:
        """One of a parameter's shape, in one piece; asked on all ranks."""
        return tensor

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """The reverse: what this rank holds of a tensor of the parameter ``like``."""
        return tensor
