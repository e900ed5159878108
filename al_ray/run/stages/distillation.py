"""Stages of on-policy distillation: a teacher tells of each token that the policy drew what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from al_ray.algorithms.distillation import taught
from al_ray.algorithms.named import Groups
from al_ray.recipe import OnPolicyDistillationStage
from al_ray.run.stages.batch import Measures
from al_ray.run.stages.grouped import Grouped, Learnt
from al_ray.run.stages.reinforcement import MIN_GROUP
from al_ray.run.stages.teacher import Teacher
from al_ray.types import Group


@dataclass(frozen=True, slots=True)
class Distillation(Grouped):
    """Learns from every rollout that can be read, whatever it was rewarded with, unless rewards count too."""

    settings: OnPolicyDistillationStage

    @property
    def needs_reward(self) -> bool:
        return self.settings.reward_weight > 0

    @property
    def min_group(self) -> int:
        return MIN_GROUP if self.needs_reward else 1

    def teaching(self, comparable: Groups) -> Groups:
        return comparable[: self.settings.groups_per_step]

    def learnt(self, groups: Sequence[Group]) -> Learnt:
        """As far as can be told without the teacher: the rows have the advantages of their rewards."""
        readable, comparable = self.sieved(groups)
        chosen = self.algorithm
        rows, unequal = chosen.rows(comparable), chosen.unequal(comparable)
        return Learnt(readable, comparable, comparable, rows, chosen.loss, unequal)

    async def measured(self, groups: Sequence[Group], policy: Measures) -> Learnt:
        learnt = self.learnt(groups)
        name = self.settings.teacher
        async with Teacher(name, self.recipe.upstreams[name]) as teacher:
            logprobs = await teacher.logprobs([row.tokens.tolist() for row in learnt.rows])
        rows, divergence = taught(learnt.rows, logprobs, self.settings.reward_weight)
        unequal = {row.group for row in rows if row.advantages.any()}
        return replace(learnt, rows=rows, unequal=unequal, metrics={"teacher/kl": divergence})
