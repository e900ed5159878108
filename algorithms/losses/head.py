"""From hidden states to log-probabilities without the logits of all positions at once.

Logits are the largest thing that an update makes: a vocabulary of numbers a position. They are computed for
a chunk of positions, read and dropped, and in the backward pass computed again. What fits one chunk is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from al_ray.algorithms.batching import MicroBatch

CHUNK_BYTES: Final = 2**27
"""Of the logits of a chunk, float32; up to four such tensors are alive at a time."""


@dataclass(frozen=True, slots=True)
class Head:
    """What makes logits of a hidden state: ``scale * (W h + b)``, with a cap ``cap * tanh(that / cap)``."""

    weight: Tensor
    """``[V, H]``."""
    bias: Tensor | None = None
    """``[V]``."""
    scale: float = 1.0
    cap: float | None = None
    dtype: torch.dtype = torch.float32
    """Of the products of matrices; all else is float32."""

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 ``[P, V]`` of ``[P, H]``."""
        bias = None if self.bias is None else self.bias.to(self.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            found = functional.linear(hidden.to(self.dtype), self.weight.to(self.dtype), bias).float()
        if self.scale != 1:
            found = found * self.scale
        return found if self.cap is None else (found / self.cap).tanh() * self.cap


def head_logprobs(
    hidden: Tensor, head: Head, batch: MicroBatch, temperature: float, *, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """As ``token_logprobs`` of the logits of ``hidden``, which are those of ``batch.predecessors``,
    ``[P, H]``."""
    logprobs, entropy = _Logprobs.apply(
        hidden, head.weight, head.bias, head, batch.sources, batch.targets, temperature
    )
    return logprobs, (entropy if entropy_gradient else entropy.detach())[batch.sources]


@dataclass(frozen=True, slots=True)
class _Chunk:
    start: int
    stop: int
    """Positions."""
    tokens: Tensor
    """Indices of the trained tokens that are predicted from them."""
    place: tuple[Tensor, Tensor]
    """Where their logits are in the chunk: row and column."""


def _chunks(positions: int, vocabulary: int, sources: Tensor, targets: Tensor) -> Iterator[_Chunk]:
    """Of about even size."""
    count = max(1, -(-positions * vocabulary * 4 // CHUNK_BYTES))
    size = max(1, -(-positions // count))
    ordered, order = sources.sort()
    starts = range(0, positions, size)
    edges = torch.tensor([*starts, positions], device=sources.device)
    first = torch.searchsorted(ordered, edges).tolist()
    for index, start in enumerate(starts):
        tokens = order[first[index] : first[index + 1]]
        place = (sources[tokens] - start, targets[tokens])
        yield _Chunk(start, min(positions, start + size), tokens, place)


class _Logprobs(torch.autograd.Function):
    """``[N]`` log-probabilities of the targets and ``[P]`` entropies, both with gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        sources: Tensor,
        targets: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        positions = len(hidden)
        entropy = hidden.new_empty(positions, dtype=torch.float32)
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        chunks = list(_chunks(positions, len(weight), sources, targets))
        for chunk in chunks:
            here = slice(chunk.start, chunk.stop)
            logits = head.logits(hidden[here])
            logs = _log_softmax(logits, temperature)
            logprobs[chunk.tokens] = logs[chunk.place]
            entropy[here] = -torch.linalg.vecdot(logs.exp(), logs)
        ctx.save_for_backward(hidden, weight, entropy)
        ctx.head, ctx.temperature, ctx.chunks = head, temperature, chunks
        ctx.kept = (logits, logs) if len(chunks) == 1 and any(ctx.needs_input_grad) else None
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(
        ctx: Any, of_logprobs: Tensor | None, of_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, entropy = ctx.saved_tensors
        head, dtype = ctx.head, ctx.head.dtype
        wanted = ctx.needs_input_grad
        states, matrix = hidden.to(dtype), weight.to(dtype)
        to_hidden = torch.empty_like(hidden) if wanted[0] else None
        to_weight = torch.zeros_like(weight) if wanted[1] else None
        to_bias = torch.zeros_like(head.bias) if wanted[2] else None
        for chunk in ctx.chunks:
            here = slice(chunk.start, chunk.stop)
            if ctx.kept is None:
                logits = head.logits(hidden[here])
                logs = _log_softmax(logits, ctx.temperature)
            else:
                (logits, logs), ctx.kept = ctx.kept, None  # of this one chunk
            gradient = _of_scaled(chunk, logs, entropy[here], of_logprobs, of_entropy)
            if head.cap is not None:
                gradient.mul_(1 - (logits / head.cap).square_())
            if head.scale != ctx.temperature:
                gradient.mul_(head.scale / ctx.temperature)
            del logits, logs
            turned = gradient.to(dtype)
            if to_hidden is not None:
                to_hidden[here] = turned @ matrix
            if to_weight is not None and dtype == to_weight.dtype:
                to_weight.addmm_(turned.T, states[here])
            elif to_weight is not None:
                to_weight += turned.T @ states[here]
            if to_bias is not None:
                to_bias += gradient.sum(0)
        return to_hidden, to_weight, to_bias, None, None, None, None


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


def _of_scaled(
    chunk: _Chunk, logs: Tensor, entropy: Tensor, of_logprobs: Tensor | None, of_entropy: Tensor | None
) -> Tensor:
    """The gradient of what ``logs`` are the log-softmax of, ``[C, V]``, in their place: a log-probability's
    is ``1 - p`` at its target and ``-p`` elsewhere, an entropy's ``-p (log p + entropy)``."""
    weighted = None if of_entropy is None else logs + entropy[:, None]
    found = logs.exp_()
    if weighted is not None and of_entropy is not None:
        weighted.mul_(found).mul_(-of_entropy[chunk.start : chunk.stop, None])
    if of_logprobs is None:
        found.zero_()
    else:
        own = of_logprobs[chunk.tokens]
        found.mul_(-torch.zeros_like(entropy).index_add_(0, chunk.place[0], own)[:, None])
        found.index_put_(chunk.place, own, accumulate=True)
    return found if weighted is None else found.add_(weighted)
