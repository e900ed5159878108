"""What a learner keeps for a stage: optimizer, reference and critic, all of them fresh at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from al_ray.actors.learner.holding.held import Held
from al_ray.actors.learner.holding.kept import Kept
from al_ray.actors.learner.spec import Reference, StageSpec
from al_ray.algorithms.critic import Critic
from al_ray.recipe import CriticSection, OptimizerSection


@dataclass(slots=True)
class Stage:
    """``step`` counts its updates, also refused ones."""

    spec: StageSpec
    held: Held
    optimizer: torch.optim.AdamW
    reference: Kept | None
    critic: Critic | None
    step: int = 0

    def state(self) -> dict[str, Any]:
        """Plain values and tensors in one piece, which a checkpoint may hold; see ``Held.whole``."""
        return {
            "spec": {
                "optimizer": self.spec.optimizer.model_dump(),
                "updates": self.spec.updates,
                "reference": self.spec.reference and asdict(self.spec.reference),
                "critic": self.spec.critic and self.spec.critic.model_dump(),
            },
            "step": self.step,
            "optimizer": tree_map_only(torch.Tensor, self.held.whole, self.optimizer.state_dict()),
            "reference": self.reference and self.reference.state(),
            "critic": self.critic and self.critic.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Into a fresh stage of ``spec_of(state)``."""
        self.step = state["step"]
        self.optimizer.load_state_dict(self._of_optimizer(state["optimizer"]))
        if self.reference is not None:
            self.reference.load(state["reference"])
        if self.critic is not None:
            self.critic.load(state["critic"])

    def _of_optimizer(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """As this rank holds it."""
        ordered = [each for group in self.optimizer.param_groups for each in group["params"]]
        parts = {
            index: {
                name: self.held.part(value, ordered[index]) if value.shape == ordered[index].shape else value
                for name, value in of_one.items()
            }
            for index, of_one in state["state"].items()
        }
        return {**state, "state": parts}


def spec_of(state: Mapping[str, Any]) -> StageSpec:
    spec = state["spec"]
    return StageSpec(
        OptimizerSection(**spec["optimizer"]),
        spec["updates"],
        spec["reference"] and Reference(**spec["reference"]),
        spec["critic"] and CriticSection(**spec["critic"]),
    )
