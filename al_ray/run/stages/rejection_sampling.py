"""Stages of rejection sampling: the best rollouts of each group are imitated, the others rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from al_ray.algorithms.named import Groups
from al_ray.algorithms.rejection import best
from al_ray.recipe import RejectionSamplingStage
from al_ray.run.stages.grouped import Grouped, Learnt
from al_ray.types import Group


@dataclass(frozen=True, slots=True)
class RejectionSampling(Grouped):
    """Learns from what ``al_ray.algorithms.rejection.best`` keeps; that may be nothing."""

    settings: RejectionSamplingStage

    @property
    def refills(self) -> int:
        return self.settings.refills

    def teaching(self, comparable: Groups) -> Groups:
        """The best of each group that has any."""
        kept = (best(group, self.settings.keep, self.settings.threshold) for group in comparable)
        return [group for group in kept if group][: self.settings.groups_per_step]

    def learnt(self, groups: Sequence[Group]) -> Learnt:
        readable, comparable = self.sieved(groups)
        kept = self.teaching(comparable)
        imitation = self.algorithm
        rewards = [episode.reward - episode.intermediate for group in kept for episode in group]
        metrics = {
            "imitation/rollouts": len(rewards),
            "imitation/groups": len(kept),
            "imitation/reward": sum(rewards) / len(rewards) if rewards else 0.0,
        }
        return Learnt(
            readable,
            comparable,
            kept,
            imitation.rows(kept),
            imitation.loss,
            imitation.unequal(kept),
            left_out="dropped: rejected, being none of the best of its group",
            metrics=metrics,
        )
