"""Layers whose inner values are computed again in the backward pass instead of being kept.

It costs a third more of the trunk's computing; what is kept of a layer is one hidden state a token.
transformers' own switch acts only while a model trains, which would bring dropout back.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Those that transformers itself could compute again."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]


def recompute_layers(model: PreTrainedModel) -> int:
    """Have every decoder layer do so from now on; returns how many there are. Nothing in it is random."""
    layers = decoder_layers(model)
    for layer in layers:
        again = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        layer.forward = again
    return len(layers)
