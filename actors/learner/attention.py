"""Attention of packed rows that computes what tokens see, and not what they do not.

torch's own attention on CPU computes every pair of tokens and adds the mask. In a trie of rows most pairs are
not seen: here each run of tokens attends to the ranges it continues and to itself, by blocks. On other
devices the kernels that take a mask are faster than many small products.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from al_ray.algorithms.batching import ancestors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME: Final = "al_ray_runs"
"""By which transformers knows it."""
BLOCK: Final = 128
"""Tokens of a run whose scores are computed together."""

Range = tuple[int, int]
_Block = tuple[int, int, Sequence[Range]]
"""Tokens from and to, and what they see: the last range ends with the block, and is seen causally."""


def takes_runs(model: PreTrainedModel) -> bool:
    """Whether the model can be given this attention: it computes on CPU, by torch's own."""
    return model.device.type == "cpu" and model.config._attn_implementation == "sdpa"


def use(model: PreTrainedModel, name: str) -> None:
    """Give the model this attention by ``NAME``, or torch's own back, by ``sdpa``."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(name)


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' interface: heads ``[1, heads, T, D]`` to ``[1, T, heads, D]``. ``attention_mask`` is
    ``MicroBatch.runs`` as ``[1, 1, R, 3]``; with any other, torch's attention."""
    if attention_mask is None or attention_mask.dtype != torch.int64:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **more
        )
        return found
    if dropout or more.get("position_bias") is not None or query.shape[2] != key.shape[2]:
        raise NotImplementedError("attention by runs has neither dropout, bias nor another sequence")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    heads, shared = query.shape[1], key.shape[1]
    grouped = query[0].unflatten(0, (shared, heads // shared)) * scale
    blocks = _blocks(attention_mask[0, 0].numpy().tobytes())
    out: Tensor = _ByBlocks.apply(grouped, key[0], value[0], blocks)
    return out.flatten(0, 1).transpose(0, 1)[None], None


@lru_cache(maxsize=2)
def _blocks(runs: bytes) -> Sequence[_Block]:
    """Of int64 ``[R, 3]``; asked for by every layer."""
    table = torch.frombuffer(bytearray(runs), dtype=torch.int64).reshape(-1, 3)
    return [
        (start, min(stop, start + BLOCK), [*before, (first, min(stop, start + BLOCK))])
        for (first, stop, _), before in zip(table.tolist(), ancestors(table), strict=True)
        for start in range(first, stop, BLOCK)
    ]


class _ByBlocks(torch.autograd.Function):
    """``softmax(q k') v`` of queries ``[K, G, T, D]``, scaled already, and keys and values ``[K, T, D]``,
    which ``G`` heads share. Weights are computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[_Block]) -> Tensor:
        out = query.new_empty((*query.shape[:3], value.shape[-1]))
        hidden = _hidden(query)
        with torch.autocast(query.device.type, enabled=False):
            for start, stop, seen in blocks:
                here = query[:, :, start:stop]
                weights = _weights(here, _gathered(key, seen), hidden)
                found = weights.to(value.dtype) @ _gathered(value, seen)
                out[:, :, start:stop] = found.view(*here.shape[:3], -1)
        ctx.save_for_backward(query, key, value, out)
        ctx.blocks = blocks
        return out

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, out = ctx.saved_tensors
        of_query = torch.empty_like(query)
        of_key, of_value = (torch.zeros_like(each, dtype=torch.float32) for each in (key, value))
        mean = (out.float() * of_out.float()).sum(-1, keepdim=True)
        hidden = _hidden(query)
        for start, stop, seen in ctx.blocks:
            here = query[:, :, start:stop]
            keys, rows = _gathered(key, seen), here.flatten(1, 2)
            weights = _weights(here, keys, hidden)
            turned = of_out[:, :, start:stop].flatten(1, 2)
            _add(of_value, weights.to(value.dtype).mT @ turned, seen)
            slopes = (turned @ _gathered(value, seen).mT).float()
            slopes.sub_(mean[:, :, start:stop].flatten(1, 2)).mul_(weights)
            lowered = slopes.to(query.dtype)
            of_query[:, :, start:stop] = (lowered @ keys).view_as(here)
            _add(of_key, lowered.mT @ rows, seen)
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None


def _hidden(query: Tensor) -> Tensor:
    """float32 ``[BLOCK, BLOCK]``: what is added to scores where the column's token is later."""
    floor = torch.full((BLOCK, BLOCK), -torch.inf, device=query.device)
    return floor.triu_(1)


def _weights(query: Tensor, keys: Tensor, hidden: Tensor) -> Tensor:
    """float32 ``[K, G n, m]`` of a block's queries, ``[K, G, n, D]``, and what they see, ``[K, m, D]``."""
    shared, group, rows, _ = query.shape
    scores = (query.flatten(1, 2) @ keys.mT).float()
    scores.view(shared, group, rows, -1)[..., -rows:] += hidden[:rows, :rows]
    return torch.softmax(scores, -1, out=scores)


def _gathered(heads: Tensor, seen: Sequence[Range]) -> Tensor:
    """The tokens of the ranges, ``[K, m, D]``."""
    if len(seen) == 1:
        return heads[:, slice(*seen[0])]
    return torch.cat([heads[:, start:stop] for start, stop in seen], 1)


def _add(total: Tensor, part: Tensor, seen: Sequence[Range]) -> None:
    """The reverse of ``_gathered``, into ``total``."""
    place = 0
    for start, stop in seen:
        total[:, start:stop] += part[:, place : place + stop - start]
        place += stop - start
