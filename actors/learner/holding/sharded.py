"""Each rank a part of every weight, with its gradient and what its optimizer remembers (FSDP2: torch's
``fully_shard``).

A layer is put together when it is computed, forward and again backward, and its gradient is summed over the
ranks at once, into parts. So all ranks compute micro-batch after micro-batch together: who has none left
computes an idle one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from al_ray.actors.learner.computation import Computation
from al_ray.actors.learner.holding.held import Found, Held
from al_ray.actors.learner.model import trained_logprobs
from al_ray.actors.learner.recomputation import decoder_layers
from al_ray.algorithms.batching import MicroBatch, collate
from al_ray.errors import Problem, RecipeError
from al_ray.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NONE: Final = np.zeros(2, np.float32)
_IDLE: Final = Row(
    "", "", np.zeros(2, np.int64), np.array([False, True]), _NONE, _NONE, _NONE, np.array([-1, 0])
)
"""The least that can be computed."""
_SOME: Final = 32
"""Tokens that are tried together."""


class _Root(nn.Module):
    """Whatever is computed with the model is computed in here, where embeddings and output head, which are no
    layer's, are whole."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, asked: Callable[[PreTrainedModel], Any]) -> Any:
        return asked(self.model)


class Sharded(Held):
    """Over all ranks of the process group. Raises ``RecipeError`` where the model cannot be held so."""

    def __init__(self, model: PreTrainedModel, policies: Sequence[str], how: Computation) -> None:
        super().__init__(model, policies)
        layers = decoder_layers(model)
        if reason := _unfit(model, layers, how):
            cure = f"whole: {type(model).__name__} {reason}"
            raise RecipeError(Problem("learners.weights", "sharded", cure))
        self._first = dist.get_rank() == 0
        self._root: Any = _Root(model)
        mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
        for module in (*layers, self._root):
            shards = fully_shard(module, mesh=mesh)
            shards.set_gradient_divide_factor(1.0)  # a sum, as losses are
            shards.set_force_sum_reduction_for_comms(True)  # gloo has no other

    def compute(self, asked: Callable[[PreTrainedModel], Found]) -> Found:
        found: Found = self._root(asked)
        if not torch.is_grad_enabled():  # else the backward pass does it
            self._root.reshard()
        return found

    def even(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        most = torch.tensor(len(batches), device=self.model.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return [*batches, *([collate([_IDLE])] * (int(most) - len(batches)))]

    def zero_gradient(self) -> None:
        for _, parameter in self.trained():
            parameter.grad = None

    def sum_gradient(self) -> None:
        """It was, with each micro-batch."""

    def clip(self, max_norm: float) -> float:
        parts = [_own(each.grad) for _, each in self.trained() if each.grad is not None]
        squares = torch.zeros((), dtype=torch.float64, device=self.model.device)
        for part in parts:
            squares += torch.linalg.vector_norm(part).double().square()
        dist.all_reduce(squares)
        norm = math.sqrt(float(squares))
        if norm > max_norm:
            for part in parts:
                part.mul_(max_norm / norm)
        return norm

    @torch.no_grad()
    def exchange(self, others: list[Tensor]) -> None:
        """In place: what is put together is read from where the parts lie."""
        for (_, parameter), other in zip(self.trained(), others, strict=True):
            mine, theirs = _own(parameter), _own(other)
            before = mine.clone()
            mine.copy_(theirs)
            theirs.copy_(before)

    @torch.no_grad()
    def set(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.trained():
            _own(parameter).copy_(_own(self.part(values[name], parameter)))

    def whole(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        found: Tensor = tensor.detach().full_tensor()
        return found.cpu() if self._first else found.new_empty(0)

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        assert isinstance(like, DTensor)
        here = tensor.to(like.device)
        found = distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)
        return found.clone()  # or the whole tensor would stay


def _unfit(model: PreTrainedModel, layers: Sequence[nn.Module], how: Computation) -> str | None:
    """Why a model cannot be sharded by layers."""
    if not layers:
        return "has no layers that could be put together one by one"
    parameters = [id(parameter) for layer in layers for parameter in layer.parameters()]
    if len(parameters) > len(set(parameters)):
        return "has layers that share weights or hold each other"
    if _reached(model, how, _IDLE) != _reached(model, how, _some(model)):
        # Ranks would sum other gradients each, and torch does not notice.
        return "has weights, as of experts, that some tokens do not reach"
    return None


def _reached(model: PreTrainedModel, how: Computation, row: Row) -> set[int]:
    """The parameters that would have a gradient; none is computed."""
    logprobs, _ = trained_logprobs(model, collate([row]).to(model.device), how, 1.0)
    found: set[int] = set()
    seen, left = set(), [logprobs.grad_fn]
    while left:
        node: Any = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found |= {id(node.variable)} if hasattr(node, "variable") else set()
            left += [each for each, _ in node.next_functions]
    return found


def _some(model: PreTrainedModel) -> Row:
    """Tokens of all kinds."""
    embeddings = model.get_input_embeddings(), model.get_output_embeddings()
    vocabulary = min(each.weight.shape[0] for each in embeddings if each is not None)
    tokens = np.random.default_rng(0).integers(0, vocabulary, _SOME)
    trained, none = np.arange(_SOME) > 0, np.zeros(_SOME, np.float32)
    return Row("", "", tokens, trained, none, none, none, np.where(trained, 0, -1))


def _own(tensor: Tensor) -> Tensor:
    """What this rank holds of it, in place."""
    assert isinstance(tensor, DTensor)
    found: Tensor = tensor.detach().to_local()
    return found
