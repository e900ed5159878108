"""What a learner asks of the weights that it trains, however it holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from al_ray.actors.learner.computation import Computation
from al_ray.actors.learner.holding import adapter
from al_ray.actors.learner.model import trained_logprobs
from al_ray.algorithms.batching import MicroBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Found = TypeVar("Found")


class Held(ABC):
    """A model with what is trained of it: all parameters that ask for a gradient, or, of adapters for each of
    several ``policies``, those of the one in use. All ranks call its methods alike."""

    def __init__(self, model: PreTrainedModel, policies: Sequence[str]) -> None:
        self.model = model
        self.policies = policies
        self._in_use = policies[0]

    def use(self, policy: str) -> None:
        """From now on everything is asked of this policy; at first, of the first."""
        if policy != self._in_use:
            adapter.use(self.model, policy)
            self._in_use = policy

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Of the policy in use, by their names in the model; tied ones once."""
        several = len(self.policies) > 1
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and (not several or adapter.is_of(self._in_use, name)):
                yield name, parameter

    def values(self) -> list[Tensor]:
        """A copy of what is trained, as this rank holds it."""
        return [parameter.detach().clone() for _, parameter in self.trained()]

    def logprobs(
        self,
        batch: MicroBatch,
        how: Computation,
        temperature: float,
        *,
        entropy_gradient: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """See ``trained_logprobs``."""
        asked = partial(
            trained_logprobs,
            batch=batch,
            how=how,
            temperature=temperature,
            entropy_gradient=entropy_gradient,
        )
        return self.compute(asked)

    @abstractmethod
    def compute(self, asked: Callable[[PreTrainedModel], Found]) -> Found:
        """What ``asked`` makes of the model."""

    @abstractmethod
    def even(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """What this rank has to compute: its own, and after them what only lets the others go on."""

    @abstractmethod
    def zero_gradient(self) -> None: ...

    @abstractmethod
    def sum_gradient(self) -> None:
        """Over all ranks, in place."""

    @abstractmethod
    def clip(self, max_norm: float) -> float:
        """Scale the gradient to a norm of at most ``max_norm``; returns the norm before."""

    @abstractmethod
    def exchange(self, others: list[Tensor]) -> None:
        """What is trained takes the values of ``others``, as ``values`` gives them, and these its own."""

    @abstractmethod
    def set(self, values: Mapping[str, Tensor]) -> None:
        """What is trained takes these values, by name, each in one piece."""

    @abstractmethod
    def whole(self, tensor: Tensor) -> Tensor:
        """One that is held as a parameter is, in one piece. Where it must be put together, the first rank
        alone has it then, in main memory, and the others something empty."""

    @abstractmethod
    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """The reverse: a tensor of the shape of the parameter ``like``, held as that is and where that is."""
