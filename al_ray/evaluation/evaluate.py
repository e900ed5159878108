"""Evaluation: rollouts of each held-out task, and what they scored.

What is asked for is a function of the recipe and the step, and asking twice is asking once: an evaluation
that was killed goes on without the rollouts that had ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from al_ray.data.mixture import SOURCE
from al_ray.evaluation.estimates import Estimate, paired
from al_ray.evaluation.scores import Result, Scores, by_key, failures, result_of, scores, task_means
from al_ray.recipe import Recipe
from al_ray.rollouts.outcome import Outcome
from al_ray.rollouts.requests import evaluation_batch, rollout_requests
from al_ray.rollouts.trajectory import require_named
from al_ray.types import Group, RolloutRequest, Task


class Agents(Protocol):
    """Who runs rollouts."""

    def rollouts(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sequence[Group]]:
        """Run those of one batch; yields its groups as they are complete."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found."""

    primary: str
    """The metric that is learnt from: ``scores`` begins with it."""
    samples: int
    """Rollouts that were asked for of each task."""
    results: Sequence[Result]
    scores: Scores
    by: Mapping[str, Mapping[str, Scores]]
    """By key of the tasks' data and value."""
    failed: Mapping[str, int]
    """Rollouts without a score, by reason."""

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """How the rollouts ended."""
        return [result.outcome for result in self.results]

    @property
    def by_task(self) -> Mapping[str, float]:
        """The mean of the primary metric of each task that has one, by the task's id."""
        return task_means(self.results, self.primary)

    def gain(self, before: Mapping[str, float]) -> Estimate | None:
        """The mean difference from an earlier evaluation's ``by_task``, over the tasks that have a score in
        both; None if none has."""
        now = self.by_task
        both = [task for task in before if task in now]
        return paired([before[task] for task in both], [now[task] for task in both]) if both else None

    @property
    def health(self) -> Mapping[str, float]:
        """What may be warned of, by the keys that a step has it under."""
        calls = [t for result in self.results if result.episode for t in result.episode.transitions]
        count = max(len(self.results), 1)
        return {
            "health/failed": sum(self.failed.values()) / count,
            "health/without_calls": sum(not outcome.called for outcome in self.outcomes) / count,
            "signals/truncated": sum(call.signals.truncated for call in calls) / max(len(calls), 1),
        }


async def evaluate(
    recipe: Recipe, agents: Agents, tasks: Sequence[Task], step: int, progress: Callable[[int, int], None]
) -> Evaluation:
    """Run the agent on each task with the evaluation's sampling, after ``step`` global steps. Raises
    ``UserError`` before the first one, if the recipe names a reward or agents of which nothing was seen."""
    batch = evaluation_batch(step)
    requests = rollout_requests(recipe, batch, tasks, recipe.evaluation.samples, "eval")
    results: list[Result] = []
    async for ended in agents.rollouts(requests):
        results += [
            result_of(rollout, recipe.transitions, recipe.model.name)
            for group in ended
            for rollout in group.rollouts
        ]
        progress(len(results), len(requests))
    if step == 0:  # later the policy may do without one of the agents
        require_named(
            recipe.transitions, [result.episode for result in results if result.episode is not None]
        )
    position = {request.group: index for index, request in enumerate(requests)}
    return summary(recipe, sorted(results, key=lambda result: position[result.group]))


def summary(recipe: Recipe, results: Sequence[Result]) -> Evaluation:
    """The scores of all results and of each part of them."""
    reward, section = recipe.transitions.reward, recipe.evaluation
    asked = reward, section.samples
    keys = dict.fromkeys([*section.by, *[SOURCE] * bool(recipe.data.sources)])
    return Evaluation(
        primary=reward,
        samples=section.samples,
        results=results,
        scores=scores(results, *asked),
        by={key: by_key(results, key, *asked) for key in keys},
        failed=failures(results),
    )
