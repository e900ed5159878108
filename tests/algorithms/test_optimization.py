"""Rates by step, decay by shape, gradients in one buffer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from al_ray.algorithms.optimization import FlatGradient, adamw, learning_rate
from al_ray.recipe import OptimizerSection


def rates(schedule: str, warmup_steps: int = 0) -> list[float]:
    section = OptimizerSection(learning_rate=1.0, schedule=schedule, warmup_steps=warmup_steps)
    return [learning_rate(section, step, 6) for step in range(6)]


def test_the_rate_rises_to_its_peak_and_falls_towards_zero_over_the_rest_of_the_stage() -> None:
    assert rates("constant", warmup_steps=2) == [0.5, 1, 1, 1, 1, 1]
    assert rates("linear", warmup_steps=2) == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])
    assert rates("cosine") == pytest.approx([(1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_after_the_last_step_there_is_no_rate(schedule: Any) -> None:
    section = OptimizerSection(learning_rate=1.0, schedule=schedule)
    assert learning_rate(section, 5, 6) > 0
    with pytest.raises(ValueError, match="step 6 of a stage that ends after 6"):
        learning_rate(section, 6, 6)


def test_weight_decay_acts_on_matrices_only() -> None:
    model = nn.Linear(3, 3)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    FlatGradient(list(model.parameters()))
    adamw(list(model.parameters()), OptimizerSection(learning_rate=0.1, weight_decay=0.5)).step()
    assert torch.allclose(model.weight, start[0] * 0.95)
    assert torch.equal(model.bias, start[1])


def test_gradients_accumulate_in_the_buffer_and_are_clipped_to_the_global_norm() -> None:
    model = nn.Linear(2, 1)
    gradient = FlatGradient(list(model.parameters()))
    for _ in range(2):
        model(torch.tensor([3.0, 4.0])).backward()
    assert gradient.vector.tolist() == [6, 8, 2]
    assert gradient.clip(1.0) == pytest.approx(math.sqrt(104))
    assert model.weight.grad is not None
    assert model.weight.grad.tolist()[0] == pytest.approx([6 / math.sqrt(104), 8 / math.sqrt(104)])
    assert gradient.clip(5.0) == pytest.approx(1.0)
    assert float(gradient.vector.norm()) == pytest.approx(1.0)
