"""One batch of each kind of stage: what is asked for, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from al_ray.algorithms import grpo
from al_ray.algorithms.losses.clipped import CrossEntropy, Loss
from al_ray.algorithms.rows import build_rows
from al_ray.algorithms.supervised import demonstration
from al_ray.data.task_order import tasks_of_step
from al_ray.recipe import GrpoStage, Recipe, SupervisedStage, dotted
from al_ray.recipe.schedule import StageSpan
from al_ray.reports.batch_metrics import (
    call_metrics,
    dimension_metrics,
    intermediate_metrics,
    rollout_metrics,
)
from al_ray.rollouts.requests import rollout_requests
from al_ray.rollouts.trajectory import require_named, trajectory
from al_ray.run.policy import Policy
from al_ray.types import Group, RolloutRequest, RolloutStatus, Row, Task, Trajectory

MIN_GROUP = 2
"""A group with fewer rollouts that succeeded has nothing to compare."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What an update is made of."""

    rows: Sequence[Row]
    loss: Loss
    metrics: Mapping[str, float] = field(default_factory=dict)


def requests_of_step(
    recipe: Recipe, span: StageSpan, step: int, tasks: Sequence[Task]
) -> list[RolloutRequest]:
    """The groups of a step; their ids are functions of the recipe and the step alone."""
    stage = span.stage
    assert isinstance(stage, GrpoStage)
    chosen = tasks_of_step(tasks, stage.groups_per_step, step - span.begin, (recipe.seed, span.index))
    return rollout_requests(recipe, f"step-{step:06d}", chosen, stage.group_size, "train")


def rollout_batch(recipe: Recipe, stage: GrpoStage, groups: Sequence[Group], policy_version: int) -> Batch:
    """Failed rollouts are left out before anything is compared, and counted; so are those without a call
    that is trained or without the reward that is learnt from."""
    ordered = sorted(groups, key=lambda group: group.id)
    ended = {
        group.id: [
            trajectory(rollout, recipe.transitions)
            for rollout in group.rollouts
            if rollout.status is RolloutStatus.SUCCEEDED
        ]
        for group in ordered
    }
    require_named(recipe.transitions, [episode for group in ended.values() for episode in group])
    kept: list[Sequence[Trajectory]] = []
    for group in ordered:
        comparable = [
            episode
            for episode in ended[group.id]
            if recipe.transitions.reward in episode.rewards and any(t.trained for t in episode.transitions)
        ]
        if len(comparable) >= MIN_GROUP:
            kept.append(comparable)
    episodes = [episode for group in kept for episode in group]
    metrics = rollout_metrics(groups, episodes, policy_version) | call_metrics(episodes)
    metrics |= dimension_metrics(episodes, recipe.transitions.reward)
    metrics |= intermediate_metrics(episodes, recipe.transitions)
    metrics["rollout/dropped_groups"] = len(groups) - len(kept)
    metrics["rollout/equal_groups"] = sum(len({e.reward for e in group}) == 1 for group in kept)
    return Batch(grpo.rows(kept, stage), grpo.loss(stage, recipe.agent.sampling), metrics)


async def demonstration_batch(
    recipe: Recipe, span: StageSpan, step: int, tasks: Sequence[Task], policy: Policy
) -> Batch:
    """Demonstrations of a step's tasks, tokenised exactly as the engines render calls."""
    stage = span.stage
    assert isinstance(stage, SupervisedStage)
    demonstrate = dotted.load(stage.demonstrate, f"stages.{span.index}.demonstrate")
    chosen = tasks_of_step(tasks, stage.tasks_per_step, step - span.begin, (recipe.seed, span.index))
    shown = [demonstrate(task.data) for task in chosen]
    calls = [await policy.render_calls(each.messages, each.tools) for each in shown]
    episodes = [
        demonstration(task, made) for task, made in zip(chosen, calls, strict=True) if made is not None
    ]
    advantages = [[1.0] * len(episode.transitions) for episode in episodes]
    rows = build_rows(episodes, advantages, stage.aggregate)
    return Batch(rows, CrossEntropy(), {"demonstration/too_long": len(chosen) - len(episodes)})
