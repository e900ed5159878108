"""Stages of reinforcement: groups of rollouts, compared with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from al_ray.algorithms.named import algorithm
from al_ray.recipe import ReinforcementStage
from al_ray.run.stages.grouped import Grouped, Groups, Learnt
from al_ray.types import Group

MIN_GROUP: Final = 2
"""A group with fewer rollouts that succeeded has nothing to compare."""


@dataclass(frozen=True, slots=True)
class Reinforcement(Grouped):
    """Learns from every group, or, where groups are replaced, from those that teach something."""

    settings: ReinforcementStage

    @property
    def needs_reference(self) -> bool:
        return self.settings.kl_coefficient > 0

    @property
    def refills(self) -> int:
        return self.settings.refills

    @property
    def min_group(self) -> int:
        return MIN_GROUP

    def teaching(self, comparable: Groups) -> Groups:
        """Those of which a call has an advantage."""
        chosen = algorithm(self.settings, self.recipe.agent.sampling)
        teaching = [group for group in comparable if any(map(any, chosen.advantages([group])[0]))]
        return teaching[: self.settings.groups_per_step]

    def measured(self, learnt: Learnt) -> Groups:
        """Those that were replaced are left out."""
        return learnt.kept

    def learnt(self, groups: Sequence[Group]) -> Learnt:
        readable, comparable = self.comparable(groups)
        kept = self.teaching(comparable) if self.refills else comparable
        chosen = algorithm(self.settings, self.recipe.agent.sampling)
        why = "dropped: its group teaches nothing and was replaced"
        return Learnt(readable, comparable, kept, chosen.rows(kept), chosen.loss, why)
