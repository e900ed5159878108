"""Stages of reinforcement: groups of rollouts, compared with each other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from al_ray.actors.learner.spec import Reference, StageSpec
from al_ray.algorithms.measured import Measured
from al_ray.algorithms.named import Algorithm, algorithm, needs_measured
from al_ray.data.task_order import tasks_of_step
from al_ray.database.reader import Records
from al_ray.errors import UnreadableError
from al_ray.recipe import Recipe, ReinforcementStage, TransitionsSection
from al_ray.recipe.schedule import StageSpan
from al_ray.reports.batch_metrics import (
    call_metrics,
    dimension_metrics,
    health_metrics,
    intermediate_metrics,
    rollout_metrics,
)
from al_ray.rollouts.blame import is_the_models_doing
from al_ray.rollouts.outcome import Outcome, outcome_of
from al_ray.rollouts.requests import rollout_requests
from al_ray.rollouts.trajectory import require_named, trajectory
from al_ray.run.agents import Agents
from al_ray.run.policy import Policy
from al_ray.run.stages.batch import Batch, Measures
from al_ray.types import Group, Rollout, RolloutRequest, RolloutStatus, Row, Task, Trajectory

_log = logging.getLogger(__name__)

MIN_GROUP = 2
"""A group with fewer rollouts that succeeded has nothing to compare."""
_EXAMPLES = 2
"""Groups that people may look at."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What is left of a step's groups after each sieve, and what is made of it."""

    readable: Sequence[Sequence[Trajectory]]
    comparable: Sequence[Sequence[Trajectory]]
    kept: Sequence[Sequence[Trajectory]]
    rows: Sequence[Row]
    measured: Mapping[str, float] = field(default_factory=dict)
    """Metrics of what the learners measured of the calls first, if they were asked to."""


@dataclass(frozen=True, slots=True)
class Reinforcement:
    """A stage whose rollouts are sampled from the policy as the learners have it."""

    recipe: Recipe
    settings: ReinforcementStage
    span: StageSpan
    tasks: Sequence[Task]

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
    def needs_served_weights(self) -> bool:
        return True

    async def batch(
        self, step: int, agents: Agents, policy: Policy, progress: Callable[[int, int], None]
    ) -> Batch:
        """The rollouts of the step's groups, once all have ended, and of those that are asked for in place of
        groups that teach nothing."""
        groups: list[Group] = []
        for refill in range(1 + self.settings.refills):
            missing = self.settings.groups_per_step - len(self._teaching(self._comparable(groups)[1]))
            if missing == 0:
                break
            requests = self.requests(step, refill)[: missing * self.settings.group_size]
            before = sum(len(group.rollouts) for group in groups)
            progress(before, before + len(requests))
            async for ended in agents.rollouts(requests):
                groups += ended
                progress(sum(len(group.rollouts) for group in groups), before + len(requests))
        return await self.batch_of(groups, policy)

    async def batch_of(self, groups: Sequence[Group], policy: Measures) -> Batch:
        """What is learnt from the groups, and what is reported of them."""
        learnt = self.learnt(groups)
        if needs_measured(self.settings):
            learnt = await self._measured(learnt, policy)
        ordered = sorted(groups, key=lambda group: group.id)
        outcomes = [outcome_of(each, self.recipe.model.name) for group in ordered for each in group.rollouts]
        metrics = self._metrics(groups, learnt, outcomes, policy.served_version)
        examples = [rollout for group in groups[:_EXAMPLES] for rollout in group.rollouts]
        chosen = self.algorithm
        return Batch(learnt.rows, chosen.loss, chosen.passes, metrics, examples, outcomes)

    def recorded(self, records: Records, step: int) -> list[Group]:
        """The groups of a step and of its refills, as far as there were any, that the store has."""
        batches = [self.batch_name(step, refill) for refill in range(1 + self.settings.refills)]
        return [
            group for batch in batches for group in records.groups(batch, records.finished_groups(batch, ()))
        ]

    async def _measured(self, learnt: Learnt, policy: Measures) -> Learnt:
        """With rows by what the learners measure of the calls. A critic learns from them at once: their
        values were asked for before."""
        chosen, settings = self.algorithm, self.settings
        estimator = settings.kl_estimator if chosen.kl_in_reward else None
        with_critic = chosen.expected is not None
        seen = await policy.observe(learnt.rows, chosen.loss, estimator, features=with_critic)
        values = await policy.critic_values(seen.features) if with_critic and seen.calls else ()
        measured = Measured.of(seen.calls, seen.divergences, values)
        metrics: dict[str, float] = {}
        if estimator:
            tokens = sum(int(row.trained.sum()) for row in learnt.rows)
            metrics["policy/kl"] = float(seen.divergences.sum()) / max(1, tokens)
        if measured.values:
            targets = chosen.critic_targets(learnt.kept, measured)
            wanted = np.array([targets[call] for call in seen.calls])
            metrics |= await policy.fit_critic(seen.features, wanted)
        return replace(learnt, rows=chosen.rows(learnt.kept, measured), measured=metrics)

    @property
    def algorithm(self) -> Algorithm:
        return algorithm(self.settings, self.recipe.agent.sampling)

    def requests(self, step: int, refill: int = 0) -> list[RolloutRequest]:
        """The groups of a step, or of one of its refills, which are of other tasks while there are any; they
        are functions of the recipe and of these two alone."""
        chosen: list[Task] = []
        asked: set[str] = set()
        for number in range(refill + 1):
            asked |= {task.id for task in chosen}
            tasks = [task for task in self.tasks if task.id not in asked] or self.tasks
            seed = (self.recipe.seed, self.span.index, *[number] * (number > 0))
            chosen = tasks_of_step(tasks, self.settings.groups_per_step, step - self.span.begin, seed)
        batch = self.batch_name(step, refill)
        return rollout_requests(self.recipe, batch, chosen, self.settings.group_size, "train")

    def batch_name(self, step: int, refill: int) -> str:
        """That of the rollouts of a step, or of one of its refills."""
        return f"step-{step:06d}" + (f"-refill-{refill}" if refill else "")

    def _teaching(self, comparable: Sequence[Sequence[Trajectory]]) -> list[Sequence[Trajectory]]:
        """Those of which a call has an advantage, at most as many as a step has."""
        chosen = self.algorithm
        teaching = [group for group in comparable if any(map(any, chosen.advantages([group])[0]))]
        return teaching[: self.settings.groups_per_step]

    def learnt(self, groups: Sequence[Group]) -> Learnt:
        """What becomes of the groups; of refilled ones, of those that teach something. Where learners must
        measure calls, advantages are as if they had found nothing."""
        readable, comparable = self._comparable(groups)
        kept = self._teaching(comparable) if self.settings.refills else comparable
        return Learnt(readable, comparable, kept, self.algorithm.rows(kept))

    def _metrics(
        self, groups: Sequence[Group], learnt: Learnt, outcomes: Sequence[Outcome], policy_version: int
    ) -> dict[str, float]:
        transitions = self.recipe.transitions
        episodes = [episode for group in learnt.kept for episode in group]
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        by_model = sum(map(is_the_models_doing, rollouts))
        readable = sum(rollout.status is RolloutStatus.SUCCEEDED for rollout in rollouts)
        readable += by_model if transitions.failed_reward is not None else 0
        equal = [group for group in learnt.comparable if len({each.reward for each in group}) == 1]
        return {
            **rollout_metrics(groups, episodes, policy_version),
            **call_metrics(episodes),
            **dimension_metrics(episodes, transitions.reward),
            **intermediate_metrics(episodes, transitions),
            "rollout/unreadable": readable - sum(map(len, learnt.readable)),
            "rollout/failed_by_model": by_model,
            "rollout/dropped_groups": len(groups) - len(learnt.comparable),
            "rollout/equal_groups": len(equal),
            **learnt.measured,
            **health_metrics(groups, outcomes, learnt.comparable, learnt.rows, self.algorithm.loss.trains),
        }

    def _comparable(
        self, groups: Sequence[Group]
    ) -> tuple[list[list[Trajectory]], list[Sequence[Trajectory]]]:
        """The episodes of each group that can be read, and the groups that can be compared.

        Failed rollouts are left out before anything is compared, and counted, unless the recipe says what
        those are worth that are the model's doing; so are those that cannot be read, and those without a
        call that is trained or without the reward that is learnt from.
        """
        transitions = self.recipe.transitions
        ended = [
            [episode for rollout in group.rollouts if (episode := _episode(rollout, transitions))]
            for group in sorted(groups, key=lambda group: group.id)
        ]
        require_named(transitions, [episode for group in ended for episode in group])
        comparable = [
            [
                episode
                for episode in group
                if transitions.reward in episode.rewards and any(t.trained for t in episode.transitions)
            ]
            for group in ended
        ]
        return ended, [group for group in comparable if len(group) >= MIN_GROUP]


def _episode(rollout: Rollout, settings: TransitionsSection) -> Trajectory | None:
    """None: it failed, and that is not to count; or it cannot be read."""
    counts = settings.failed_reward is not None and is_the_models_doing(rollout)
    if rollout.status is not RolloutStatus.SUCCEEDED and not counts:
        return None
    try:
        return trajectory(rollout, settings)
    except UnreadableError as error:
        _log.warning("left out: %s", error, exc_info=error)
        return None
