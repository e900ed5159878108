"""Rows and a spec that the learner tests share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from al_ray.actors.learner.spec import LearnerSpec, Reference, StageSpec
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.correction import Correction
from al_ray.algorithms.losses.policy_gradient import PolicyGradient
from al_ray.recipe import CriticSection, OptimizerSection
from al_ray.types import Row, UpdateReport

OPTIMIZER = OptimizerSection(learning_rate=1e-3, schedule="cosine", warmup_steps=1, weight_decay=0.1)
SECTION = StageSpec(OPTIMIZER, 6)
WITH_REFERENCE = replace(SECTION, reference=Reference())
WITH_CRITIC = replace(WITH_REFERENCE, critic=CriticSection())
POLICY_GRADIENT = PolicyGradient(
    Clipped(0.2, 0.2), kl_coefficient=0.1, correction=Correction("token", "truncate", 2.0)
)
PROBE = list(range(3, 40))


def learner_spec(model: Path) -> LearnerSpec:
    return LearnerSpec(
        str(model),
        dtype="float32",
        device="cpu",
        threads=1,
        max_length=64,
        micro_batch_tokens=64,
        transport="shared_memory",
    )


def probe_logprobs(model: nn.Module) -> list[float]:
    """Of each token of ``PROBE`` but the first, by the model itself: nothing of the learner takes part."""
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([PROBE])).logits[0, :-1].log_softmax(-1)
    return scores[torch.arange(len(PROBE) - 1), torch.tensor(PROBE[1:])].tolist()  # type: ignore[no-any-return]


def rows(seed: int = 0, groups: int = 2, size: int = 3) -> list[Row]:
    """Groups with a common prompt of 12 tokens and answers of uneven length."""
    rng = np.random.default_rng(seed)
    made = []
    for g in range(groups):
        prompt = rng.integers(3, 250, 12)
        for k in range(size):
            tokens = np.concatenate([prompt, rng.integers(3, 250, int(rng.integers(2, 20)))])
            trained = np.arange(len(tokens)) >= 12
            mask = trained.astype(np.float32)
            sampled = (rng.uniform(-6, -5, len(tokens)) * mask).astype(np.float32)
            advantage = np.float32(rng.normal())
            weights = (mask / mask.sum() / (groups * size)).astype(np.float32)
            of_call = np.where(trained, 0, -1)
            drawn = (sampled, advantage * mask, weights)
            made.append(Row(f"{g}-{k}", str(g), tokens, trained, *drawn, of_call))
    return made


def settled(report: UpdateReport) -> UpdateReport:
    """Without what the process happens to hold."""
    figures = {key: value for key, value in report.metrics.items() if key != "learner/peak_gib"}
    return replace(report, metrics=figures)
