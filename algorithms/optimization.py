"""Moving the weights: AdamW as a stage asks for it, its rate by step, gradients in one buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from al_ray.recipe import OptimizerSection


def adamw(parameters: Sequence[nn.Parameter], section: OptimizerSection) -> torch.optim.AdamW:
    """Weight decay acts on matrices only."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": section.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=section.learning_rate, betas=section.betas, fused=True)


def learning_rate(section: OptimizerSection, step: int, total_steps: int) -> float:
    """The rate of step ``step``, counted from 0; no step of a stage has rate 0.

    Raises ``ValueError`` after the last step, where a schedule would turn negative and climb the loss.
    """
    if step >= total_steps:
        raise ValueError(f"step {step} of a stage that ends after {total_steps}: start the next stage first")
    if step < section.warmup_steps:
        return section.learning_rate * (step + 1) / section.warmup_steps
    progress = (step - section.warmup_steps) / max(1, total_steps - section.warmup_steps)
    match section.schedule:
        case "constant":
            return section.learning_rate
        case "linear":
            return section.learning_rate * (1 - progress)
        case "cosine":
            return section.learning_rate * (1 + math.cos(math.pi * progress)) / 2


class FlatGradient:
    """The gradients of parameters as views of one vector: zeroed, reduced, measured and clipped at once."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        first = parameters[0]
        self.vector = torch.zeros(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
        pieces = self.vector.split([p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)

    def clip(self, max_norm: float) -> float:
        """Scales to a norm of at most ``max_norm``; returns the norm before."""
        norm = float(torch.linalg.vector_norm(self.vector))
        if norm > max_norm:
            self.vector.mul_(max_norm / norm)
        return norm
