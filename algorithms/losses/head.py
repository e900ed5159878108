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

CHUNK_BYTES: Final = 2**26
"""Of the logits of a chunk, float32; two or three such tensors are alive at a time."""


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
        normalizer, entropy = hidden.new_empty((2, positions), dtype=torch.float32)
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        chunks = list(_chunks(positions, len(weight), sources, targets))
        for chunk in chunks:
            here = slice(chunk.start, chunk.stop)
            logits = head.logits(hidden[here])
            scaled = logits if temperature == 1 else logits / temperature
            normalizer[here] = scaled.logsumexp(-1)
            logprobs[chunk.tokens] = scaled[chunk.place] - normalizer[here][chunk.place[0]]
            probabilities = (scaled - normalizer[here, None]).exp_()
            entropy[here] = normalizer[here] - torch.linalg.vecdot(probabilities, scaled)
        ctx.save_for_backward(hidden, weight, normalizer, entropy)
        ctx.head, ctx.temperature, ctx.chunks = head, temperature, chunks
        ctx.kept = logits if len(chunks) == 1 and any(ctx.needs_input_grad) else None
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(
        ctx: Any, of_logprobs: Tensor | None, of_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, normalizer, entropy = ctx.saved_tensors
        head, dtype = ctx.head, ctx.head.dtype
        wanted = ctx.needs_input_grad
        states, matrix = hidden.to(dtype), weight.to(dtype)
        to_hidden = torch.empty_like(hidden) if wanted[0] else None
        to_weight = torch.zeros_like(weight) if wanted[1] else None
        to_bias = torch.zeros_like(head.bias) if wanted[2] else None
        for chunk in ctx.chunks:
            here = slice(chunk.start, chunk.stop)
            logits = head.logits(hidden[here]) if ctx.kept is None else ctx.kept
            saved = normalizer[here], entropy[here]
            gradient = _of_products(head, ctx.temperature, chunk, logits, saved, of_logprobs, of_entropy)
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


def _of_products(
    head: Head,
    temperature: float,
    chunk: _Chunk,
    logits: Tensor,
    saved: tuple[Tensor, Tensor],
    of_logprobs: Tensor | None,
    of_entropy: Tensor | None,
) -> Tensor:
    """The gradient of ``W h + b``, ``[C, V]``: a log-probability's is ``1 - p`` at its target and ``-p``
    elsewhere, an entropy's ``-p (log p + entropy)``; ``saved`` are normalizer and entropy, ``[C]``."""
    normalizer, entropy = saved
    scaled = logits if temperature == 1 else logits / temperature
    found = (scaled - normalizer[:, None]).exp_()
    if of_entropy is not None:
        weighted = (scaled - normalizer[:, None]).add_(entropy[:, None]).mul_(found)
        weighted.mul_(-of_entropy[chunk.start : chunk.stop, None])
    if of_logprobs is not None:
        own = of_logprobs[chunk.tokens]
        found.mul_(-torch.zeros_like(normalizer).index_add_(0, chunk.place[0], own)[:, None])
        found.index_put_(chunk.place, own, accumulate=True)
    else:
        found.zero_()
    if of_entropy is not None:
        found += weighted
    if head.cap is not None:
        found.mul_(1 - (logits / head.cap).square_())
    return found if head.scale == temperature else found.mul_(head.scale / temperature)
