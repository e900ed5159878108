"""Stages of reinforcement: groups of rollouts, compared with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from al_ray.actors.learner.spec import Reference, StageSpec
from al_ray.algorithms.measured import Measured
from al_ray.algorithms.named import Groups, needs_measured
from al_ray.recipe import ReinforcementStage
from al_ray.run.stages.batch import Lesson, Measures
from al_ray.run.stages.grouped import Grouped, Learnt
from al_ray.types import Group

MIN_GROUP: Final = 2
"""A group with fewer rollouts that succeeded has nothing to compare."""


@dataclass(frozen=True, slots=True)
class Reinforcement(Grouped):
    """Learns from every group, or, where groups are replaced, from those that teach something."""

    settings: ReinforcementStage

    @property
    def spec(self) -> StageSpec:
        chosen = self.settings
        moves = Reference(chosen.reference_every, chosen.reference_mix)
        return StageSpec(
            chosen.optimizer,
            chosen.steps,
            moves if chosen.kl_coefficient > 0 else None,
            chosen.critic if chosen.credit == "gae" else None,
        )

    @property
    def refills(self) -> int:
        return self.settings.refills

    @property
    def min_group(self) -> int:
        return MIN_GROUP

    def teaching(self, comparable: Groups) -> Groups:
        """Those of which a call has an advantage."""
        unequal = self.algorithm.unequal(comparable)
        teaching = [group for group in comparable if group[0].group in unequal]
        return teaching[: self.settings.groups_per_step]

    def learnt(self, groups: Sequence[Group]) -> Learnt:
        """Where learners must measure calls, advantages are as if they had found nothing."""
        readable, comparable = self.sieved(groups)
        kept = self.teaching(comparable) if self.refills else comparable
        chosen = self.algorithm
        return Learnt(
            readable,
            comparable,
            kept,
            chosen.rows(kept),
            chosen.loss,
            chosen.unequal(kept),
            left_out="dropped: its group teaches nothing and was replaced",
            passes=chosen.passes,
        )

    async def measured(self, groups: Sequence[Group], policy: Measures) -> Learnt:
        learnt = self.learnt(groups)
        if not needs_measured(self.settings):
            return learnt
        chosen, with_critic = self.algorithm, self.spec.critic is not None
        estimator = self.settings.kl_estimator if chosen.kl_in_reward else None
        seen = await policy.observe(learnt.rows, chosen.loss, estimator, features=with_critic)
        values = await policy.critic_values(seen.features) if with_critic and seen.calls else ()
        measured = Measured.of(seen.calls, seen.divergences, values)
        metrics: dict[str, float] = {}
        lesson = None
        if estimator:
            tokens = sum(int(row.trained.sum()) for row in learnt.rows)
            metrics["policy/kl"] = float(seen.divergences.sum()) / max(1, tokens)
        if measured.values:
            targets = chosen.critic_targets(learnt.kept, measured)
            lesson = Lesson(seen.features, np.array([targets[call] for call in seen.calls]))
        rows, unequal = chosen.rows(learnt.kept, measured), chosen.unequal(learnt.kept, measured)
        return replace(learnt, rows=rows, unequal=unequal, metrics=metrics, lesson=lesson)
