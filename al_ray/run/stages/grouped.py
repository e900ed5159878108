"""What stages of groups have in common: they ask for rollouts of a step's tasks, wait for them, and tell what
became of each. What is learnt from the groups is each stage's own."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from al_ray.actors.learner.spec import StageSpec
from al_ray.algorithms.losses.token import Loss
from al_ray.algorithms.named import Algorithm, Groups, algorithm
from al_ray.algorithms.passes import ONCE, Passes
from al_ray.data.mixture import mixed_tasks_of_step, sources_of
from al_ray.database.judged import judge_batch
from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.errors import UnreadableError, UselessRunError
from al_ray.recipe import GroupedStage, Recipe, TransitionsSection
from al_ray.recipe.schedule import Admission, StageSpan
from al_ray.reports.batch_metrics import (
    are_equal,
    call_metrics,
    dimension_metrics,
    health_metrics,
    intermediate_metrics,
    left_out_metrics,
    policy_metrics,
    rollout_metrics,
    source_metrics,
)
from al_ray.rollouts.agent_error import agent_error
from al_ray.rollouts.blame import is_the_models_doing
from al_ray.rollouts.outcome import Outcome, outcome_of
from al_ray.rollouts.requests import rollout_requests, step_batch
from al_ray.rollouts.trajectory import require_named, trajectory
from al_ray.run.agents import Agents
from al_ray.run.policy import Policy
from al_ray.run.stages.asked import Asked, Progress
from al_ray.run.stages.batch import Batch, Lesson, Measures
from al_ray.run.stages.history import History, Tries, told_of, worth_of
from al_ray.run.stages.staleness import require_fresh
from al_ray.types import Group, Rollout, RolloutRequest, RolloutStatus, Row, SpanKind, Task, Trajectory

_log = logging.getLogger(__name__)

NO_TRIES: Final[Tries] = {}
_EXAMPLES: Final = 2
"""Groups that people may look at."""
_NOT_COMPARABLE: Final = "dropped: without a reward, a trained call, or others to compare it with"


@dataclass(frozen=True, slots=True)
class Learnt:
    """What is left of a step's groups after each sieve, and what is made of it."""

    readable: Groups
    comparable: Groups
    kept: Groups
    rows: Sequence[Row]
    loss: Loss
    unequal: Collection[str]
    """The groups of which something is learnt, by id."""
    left_out: str = ""
    """Why a comparable rollout is not among those kept."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those that only this kind of stage has, by the keys of ``al_ray.reports.names``."""
    passes: Passes = ONCE
    lesson: Lesson | None = None
    """The critic's, where there is one."""

    @property
    def reasons(self) -> Mapping[str, str | None]:
        """Why each rollout that can be read is in no row, by id; None: it is in one."""
        return {
            episode.rollout_id: why
            for why, groups in (
                (_NOT_COMPARABLE, self.readable),
                (self.left_out, self.comparable),
                (None, self.kept),
            )
            for group in groups
            for episode in group
        }


@dataclass(frozen=True, slots=True)
class Grouped(ABC):
    """A stage whose rollouts are sampled from the policy as the learners have it, or had it at most
    ``staleness`` updates ago."""

    recipe: Recipe
    settings: GroupedStage
    span: StageSpan
    tasks: Sequence[Task]
    history: History = field(default_factory=History, compare=False)
    under_way: dict[int, Asked] = field(default_factory=dict, compare=False)
    """By step, what was asked for and is not learnt from yet."""

    @property
    def spec(self) -> StageSpec:
        return StageSpec(self.settings.optimizer, self.settings.steps)

    @property
    def algorithm(self) -> Algorithm:
        return algorithm(self.settings, self.recipe.agent.sampling)

    @property
    def needs_served_weights(self) -> bool:
        return True

    @property
    def refills(self) -> int:
        """How often groups that teach nothing are replaced."""
        return 0

    @property
    def min_group(self) -> int:
        """Rollouts that succeeded, without which a group is left out."""
        return 1

    @property
    def needs_reward(self) -> bool:
        """Whether a rollout without the reward that is learnt from is left out."""
        return True

    @abstractmethod
    def teaching(self, comparable: Groups) -> Groups:
        """What something is learnt from, of at most as many groups as a step has."""

    @abstractmethod
    def learnt(self, groups: Sequence[Group]) -> Learnt:
        """What becomes of the groups, as far as they tell themselves."""

    async def measured(self, groups: Sequence[Group], policy: Measures) -> Learnt:
        """``learnt``, with what learners or a teacher tell of the groups, where that is needed."""
        return self.learnt(groups)

    async def batch(self, step: int, agents: Agents, policy: Policy, progress: Progress) -> Batch:
        """What is learnt from the rollouts of a step. Those of the next ones are asked for too, as far as
        they are due, and go on meanwhile."""
        asked = await self.ask(step, agents)
        ahead = {"rollout/ahead": asked.ended, "rollout/recorded": asked.recorded}
        groups = await self.groups(step, agents, progress)
        judges = await asyncio.to_thread(self.judges, step, agents.records) if agents.judges else []
        of_judges = judge_metrics(step, judges)
        batch = await self.batch_of(groups, policy)
        curriculum = self.settings.curriculum
        of_tries = told_of(asked.tries, self.tasks, curriculum) if curriculum is not None else {}
        del self.under_way[step]
        return replace(batch, metrics={**batch.metrics, **ahead, **of_tries, **of_judges})

    async def leave(self) -> None:
        for asked in self.under_way.values():
            await asked.leave()
        self.under_way.clear()

    async def ask(self, step: int, agents: Agents) -> Asked:
        """Ask for what is due at a step, unless that was done before it; returns the step's own."""
        for batch in Admission(self.span).due(step):
            if batch not in self.under_way:
                tries = await self.tries(batch, agents)
                self.under_way[batch] = await Asked.of(agents, self.requests(batch, 0, tries), tries)
        return self.under_way[step]

    def judges(self, step: int, records: Records) -> Sequence[Rollout]:
        """Those of the groups of a step."""
        batches = [judge_batch(batch) for batch in self.batch_names(step)]
        return records.find_rollouts(Query([Condition("batch", "in", batches)]), tuple(SpanKind)).items

    async def tries(self, step: int, agents: Agents) -> Tries:
        """What a curriculum goes by for a step: all that is known for sure when the step is asked for."""
        curriculum = self.settings.curriculum
        if curriculum is None:
            return {}
        before = Admission(self.span).asked_at(step)
        transitions, memory = self.recipe.transitions, curriculum.memory
        return await asyncio.to_thread(self.history.before, before, agents.records, transitions, memory)

    async def groups(self, step: int, agents: Agents, progress: Progress) -> Sequence[Group]:
        """Those of the step, once all have ended, and those that are asked for now in place of groups that
        teach nothing."""
        asked = await self.ask(step, agents)
        groups = list(await asked.groups(progress))
        if self._begins_learning(step):
            require_named(
                self.recipe.transitions, [episode for group in self._ended(groups) for episode in group]
            )
        for refill in range(1, 1 + self.refills):
            missing = self.settings.groups_per_step - len(self.teaching(self.sieved(groups)[1]))
            if missing == 0:
                break
            requests = self.requests(step, refill, asked.tries)[: missing * self.settings.group_size]
            before = sum(len(group.rollouts) for group in groups)
            replacing = await Asked.of(agents, requests, asked.tries)
            groups += await replacing.groups(lambda now, all: progress(before + now, before + all))  # noqa: B023
        return groups

    def requests(self, step: int, refill: int = 0, tries: Tries = NO_TRIES) -> list[RolloutRequest]:
        """The groups of a step, or of one of its refills, which are of other tasks while there are any; they
        are functions of the recipe, of these two and, where there is a curriculum, of what was tried in the
        steps before the one at which they are due."""
        curriculum = self.settings.curriculum
        worth = worth_of(tries, curriculum) if curriculum is not None else None
        sources = sources_of(self.recipe.data, self.tasks)
        chosen: list[Task] = []
        asked: set[str] = set()
        for number in range(refill + 1):
            asked |= {task.id for task in chosen}
            seed = (self.recipe.seed, self.span.index, *[number] * (number > 0))
            count, place = self.settings.groups_per_step, step - self.span.begin
            chosen = mixed_tasks_of_step(sources, count, place, seed, asked, worth)
        batch = step_batch(step, refill)
        return rollout_requests(self.recipe, batch, chosen, self.settings.group_size, "train")

    def batch_names(self, step: int) -> Sequence[str]:
        """Those of the rollouts of a step and of all its refills."""
        return [step_batch(step, refill) for refill in range(1 + self.refills)]

    def recorded(self, records: Records, step: int) -> list[Group]:
        """The groups of a step and of its refills, as far as there were any, that the store has."""
        batches = self.batch_names(step)
        return [
            group for batch in batches for group in records.groups(batch, records.finished_groups(batch, ()))
        ]

    async def batch_of(self, groups: Sequence[Group], policy: Measures) -> Batch:
        """What is learnt from the groups, with all that is told of them."""
        learnt = await self.measured(groups, policy)
        bound, place = self.settings.staleness, f"stages.{self.span.index}"
        require_fresh(learnt.kept, policy.served_version, bound, place)
        ordered = sorted(groups, key=lambda group: group.id)
        outcomes = [outcome_of(each, self.recipe.model.name) for group in ordered for each in group.rollouts]
        metrics = self.metrics(groups, learnt, outcomes, policy.served_version)
        examples = [rollout for group in groups[:_EXAMPLES] for rollout in group.rollouts]
        return Batch(
            learnt.rows,
            learnt.loss,
            learnt.passes,
            learnt.lesson,
            metrics=metrics,
            examples=examples,
            outcomes=outcomes,
        )

    def metrics(
        self, groups: Sequence[Group], learnt: Learnt, outcomes: Sequence[Outcome], policy_version: int
    ) -> dict[str, float]:
        """By the keys of ``al_ray.reports.names``."""
        transitions = self.recipe.transitions
        episodes = [episode for group in learnt.comparable for episode in group]
        by_model = sum(outcome.by_model for outcome in outcomes)
        readable = sum(outcome.error is None for outcome in outcomes)
        readable += by_model if transitions.failed_reward is not None else 0
        return {
            **rollout_metrics(groups, episodes, policy_version, transitions.reward),
            **call_metrics(episodes),
            **left_out_metrics(episode for group in learnt.readable for episode in group),
            **dimension_metrics(episodes, transitions.reward),
            **intermediate_metrics(episodes, transitions),
            **(source_metrics(groups, episodes, transitions.reward) if self.recipe.data.sources else {}),
            **(policy_metrics(episodes, self.recipe.policies) if self.recipe.policies else {}),
            "rollout/unreadable": readable - sum(map(len, learnt.readable)),
            "rollout/failed_by_model": by_model,
            "rollout/dropped_groups": len(groups) - len(learnt.comparable),
            "rollout/equal_groups": sum(map(are_equal, learnt.comparable)),
            **learnt.metrics,
            **health_metrics(
                groups, outcomes, learnt.comparable, learnt.unequal, learnt.rows, learnt.loss.trains
            ),
        }

    def sieved(self, groups: Sequence[Group]) -> tuple[Groups, Groups]:
        """The episodes of each group that can be read, and the groups that can be compared.

        Failed rollouts are left out before anything is compared, and counted, unless the recipe says what
        those are worth that are the model's doing; so are those that cannot be read, and those without a
        call that is trained or without the reward that is learnt from.
        """
        transitions, ended = self.recipe.transitions, self._ended(groups)
        comparable = [
            [
                episode
                for episode in group
                if (transitions.reward in episode.rewards or not self.needs_reward)
                and any(t.trained for t in episode.transitions)
            ]
            for group in ended
        ]
        return ended, [group for group in comparable if len(group) >= self.min_group]

    def _ended(self, groups: Sequence[Group]) -> Groups:
        transitions = self.recipe.transitions
        return [
            [episode for rollout in group.rollouts if (episode := _episode(rollout, transitions))]
            for group in sorted(groups, key=lambda group: group.id)
        ]

    def _begins_learning(self, step: int) -> bool:
        """Whether no step of the run has learnt from rollouts before. Later the policy may do without an
        agent that the recipe names: one that is asked to mend what is right by now, say."""
        earlier = self.recipe.stages[: self.span.index]
        return step == self.span.begin and not any(isinstance(stage, GroupedStage) for stage in earlier)


def judge_metrics(step: int, judges: Sequence[Rollout]) -> dict[str, float]:
    """Of the judges of a step; raises ``UselessRunError`` if all have failed."""
    failed = [judge for judge in judges if judge.status is not RolloutStatus.SUCCEEDED]
    if judges and len(failed) == len(judges):
        error = agent_error(failed[0].attempts[-1])
        raise UselessRunError(
            f"step {step + 1}: agent.judge failed on all {len(failed)} groups; the first error:\n  {error}"
        )
    return {"judge/groups": len(judges), "judge/failed": len(failed)} if judges else {}


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
