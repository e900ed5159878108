"""A recorded step, computed once more from the store and the last checkpoint before it.

No agent, engine or cluster takes part: rewards, credit, advantages, rows, loss and gradient are functions of
what is recorded. On the machine and with the number of threads that the step was computed with, they are the
same bit for bit; a changed recipe shows where it would have differed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from al_ray.database.reader import Records
from al_ray.errors import Problem, UserError
from al_ray.machines.plan import plan, this_machine
from al_ray.models import folders
from al_ray.recipe import Recipe, SupervisedStage
from al_ray.recipe.schedule import span_of_step, stage_spans, total_steps
from al_ray.run.folder import RunFolder
from al_ray.run.launch import specs
from al_ray.run.recorded.worth import CallRow, calls_of, logged_step
from al_ray.run.stages.batch import Batch
from al_ray.run.stages.grouped import Grouped
from al_ray.run.stages.stage import stage_of
from al_ray.types import Group, Row

if TYPE_CHECKING:
    import numpy as np

    from al_ray.actors.learner.actor import Learner
    from al_ray.actors.learner.observing import Observations
    from al_ray.algorithms.losses.token import Loss


_KEPT: Final = {
    "optimizer": "optimizer",
    "updates": "steps",
    "reference": "kl_coefficient, reference_every, reference_mix",
    "critic": "credit, critic",
}
"""By the fields of ``StageSpec``, what of the recipe's stage decides them."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it is computed again; ``number`` counts from 1, as steps are logged."""

    number: int
    stage: Grouped
    groups: Sequence[Group]
    batch: Batch
    of_update: Mapping[str, float]
    """What the learner tells."""

    @property
    def figures(self) -> Mapping[str, float]:
        """What is logged of a step, but for times and memory."""
        found = {**self.batch.metrics, **self.of_update}
        return {key: value for key, value in found.items() if not key.endswith("_gib")}


def logged(folder: RunFolder, step: int) -> Mapping[str, Any]:
    """What the run logged of the step when it ended. Raises ``UserError`` where it did not."""
    line = logged_step(folder, step)
    if line is None:
        raise UserError(Problem("STEP", step, f"has not ended in {folder.path}"))
    return line


def replay(folder: RunFolder, step: int, recipe: Recipe) -> Step:
    """The step, from the weights that it had, by ``recipe``: the run's own, or a changed one that has the
    same stages. Raises ``UserError`` where the step is none of reinforcement, its weights are gone, or
    learners would have kept something else since the stage began."""
    own = folder.recipe()
    _require_kept(_stage(own, step - 1), _stage(recipe, step - 1), step)
    with closing(Records(folder.store_url, read_only=True)) as records:
        learner = _learner(own)
        for before in range(_restore(learner, folder, own, step), step - 1):
            stage = _stage(own, before)
            _again(stage, before, stage.recorded(records, before), learner)
        stage = _stage(recipe, step - 1)
        return _again(stage, step - 1, stage.recorded(records, step - 1), learner)


def _stage(recipe: Recipe, step: int) -> Grouped:
    """That of a step, counted from 0."""
    span = span_of_step(recipe, step)
    if span is None:
        raise UserError(Problem("STEP", step + 1, f"from 1 to {total_steps(recipe)}"))
    stage = stage_of(recipe, span, ())
    if not isinstance(stage, Grouped):
        cure = f"is of stage {span.index}, {span.stage.algorithm}: rollouts alone are recorded"
        raise UserError(Problem("STEP", step + 1, cure))
    return stage


def _require_kept(own: Grouped, changed: Grouped, step: int) -> None:
    """After its first step, a stage has the optimizer, the reference and the critic that it began with."""
    asked = [name for name in _KEPT if getattr(own.spec, name) != getattr(changed.spec, name)]
    if asked and step - 1 > own.span.begin:
        cure = (
            f"learners keep what these decide from step {own.span.begin + 1} on, with which the stage "
            "begins: that step alone can be computed with others"
        )
        raise UserError(Problem("--set", ", ".join(_KEPT[name] for name in asked), cure))


def _learner(recipe: Recipe) -> Learner:
    from al_ray.actors.learner.actor import Learner  # with torch

    folder = folders.resolve(recipe.model.path)
    return Learner(specs.learner_spec(recipe, plan(recipe, this_machine()), folder))


def _restore(learner: Learner, folder: RunFolder, recipe: Recipe, step: int) -> int:
    """The last checkpoint before the step; returns the steps that it holds."""
    begin = max((done for done in folder.checkpoints() if done < step), default=0)
    for span in stage_spans(recipe):
        if isinstance(span.stage, SupervisedStage) and span.begin < step - 1 and begin < span.end:
            cure = f"its weights cannot be made again: no checkpoint is left between step {span.end}, where "
            cure += "the supervised stage ends, and it; raise checkpoint.keep"
            raise UserError(Problem("STEP", step, cure))
    if begin:
        learner.load(str(folder.checkpoint(begin)))
    return begin


def _again(stage: Grouped, step: int, groups: Sequence[Group], learner: Learner) -> Step:
    """The batch and the update of a step, counted from 0."""
    from al_ray.actors.learner.tally import worth_computing  # with torch

    if step == stage.span.begin:
        learner.start_stage(stage.spec)
    batch = asyncio.run(stage.batch_of(groups, _Alone(learner)))
    kept, of_rows = worth_computing(batch.rows, batch.loss)
    lesson = batch.lesson
    of_critic = {} if lesson is None else learner.fit_critic(lesson.features, lesson.targets)
    report = learner.update(batch.passes(kept), batch.loss)
    return Step(step + 1, stage, groups, batch, {**report.metrics, **of_rows, **of_critic})


@dataclass(frozen=True, slots=True)
class _Alone:
    """A policy without engines, whose learner is in this process."""

    learner: Learner

    @property
    def served_version(self) -> int:
        return self.learner.policy_version()

    async def observe(
        self, rows: Sequence[Row], loss: Loss, estimator: str | None, *, features: bool
    ) -> Observations:
        return self.learner.observe(rows, loss, estimator, features=features)

    async def critic_values(self, features: np.ndarray) -> np.ndarray:
        return self.learner.critic_values(features)


def differences(figures: Mapping[str, float], others: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Those that both have and that are not equal bit for bit: key, here, there."""
    for key, value in figures.items():
        if key in others and _as_logged(value) != _as_logged(others[key]):
            yield key, value, others[key]


def _as_logged(value: float | None) -> float | None:
    """None where it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def calls(step: Step) -> Iterator[CallRow]:
    """Of all rollouts that were learnt from."""
    return calls_of(step.stage, step.stage.learnt(step.groups).kept, step.batch.rows)
