"""What a learner keeps for a stage: optimizer, reference and critic, all of them fresh at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from al_ray.actors.learner.holding.kept import Kept
from al_ray.actors.learner.spec import Reference, StageSpec
from al_ray.algorithms.critic import Critic
from al_ray.recipe import CriticSection, OptimizerSection


@dataclass(slots=True)
class Stage:
    """``step`` counts its updates, also refused ones."""

    spec: StageSpec
    optimizer: torch.optim.AdamW
    reference: Kept | None
    critic: Critic | None
    step: int = 0

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, which a checkpoint may hold."""
        return {
            "spec": {
                "optimizer": self.spec.optimizer.model_dump(),
                "updates": self.spec.updates,
                "reference": self.spec.reference and asdict(self.spec.reference),
                "critic": self.spec.critic and self.spec.critic.model_dump(),
            },
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "reference": self.reference and self.reference.state(),
            "critic": self.critic and self.critic.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Into a fresh stage of ``spec_of(state)``."""
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.reference is not None:
            self.reference.load(state["reference"])
        if self.critic is not None:
            self.critic.load(state["critic"])


def spec_of(state: Mapping[str, Any]) -> StageSpec:
    spec = state["spec"]
    return StageSpec(
        OptimizerSection(**spec["optimizer"]),
        spec["updates"],
        spec["reference"] and Reference(**spec["reference"]),
        spec["critic"] and CriticSection(**spec["critic"]),
    )
