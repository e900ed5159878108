"""Where a run stands: the global step, counted over all stages, and what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from al_ray.recipe import AnyStage, GroupedStage, Recipe


@dataclass(frozen=True, slots=True)
class StageSpan:
    """A stage and the global steps ``begin`` to ``end`` (exclusive) that it takes."""

    index: int
    stage: AnyStage
    begin: int
    end: int


def stage_spans(recipe: Recipe) -> Sequence[StageSpan]:
    """The recipe's stages laid end to end."""
    ends = list(accumulate(stage.steps for stage in recipe.stages))
    return [
        StageSpan(index, stage, end - stage.steps, end)
        for index, (stage, end) in enumerate(zip(recipe.stages, ends, strict=True))
    ]


def total_steps(recipe: Recipe) -> int:
    """Of all stages."""
    return stage_spans(recipe)[-1].end


def span_of_step(recipe: Recipe, step: int) -> StageSpan | None:
    """The stage that makes a global step, counted from 0; None where the run has no such step."""
    return next((span for span in stage_spans(recipe) if span.begin <= step < span.end), None)


@dataclass(frozen=True, slots=True)
class Admission:
    """Which batches may be asked for, in a stage that trains batch after batch in order.

    With a stage's ``staleness`` of S, batch k is asked for once the weights after k - S steps are served, or
    those with which the stage begins, where these are later. So those weights or later ones sample it, and no
    token is more than S updates old when step k trains it.
    """

    span: StageSpan

    @property
    def staleness(self) -> int:
        return self.span.stage.staleness if isinstance(self.span.stage, GroupedStage) else 0

    def due(self, step: int) -> range:
        """The batches that are trained at ``step`` or later, and may be asked for at it: all of one stage."""
        return range(step, min(step + self.staleness + 1, self.span.end))

    def asked_at(self, batch: int) -> int:
        """The first step at which a batch is due. What it asks for may go by the steps before that alone."""
        return max(self.span.begin, batch - self.staleness)


def first_not_due(recipe: Recipe, done: int) -> int:
    """The first batch that must not be asked for when ``done`` steps are done."""
    span = span_of_step(recipe, done)
    return done if span is None else Admission(span).due(done).stop


def evaluation_name(recipe: Recipe, step: int) -> str:
    """What the evaluation after ``step`` global steps is called; no other of the run is called so."""
    if step == 0:
        return "untrained"
    ended = [span.stage.algorithm for span in stage_spans(recipe) if span.end <= step]
    if step not in (span.end for span in stage_spans(recipe)):
        return f"step {step}"
    nth = ended.count(ended[-1])
    return f"after {ended[-1]}" + (f" {nth}" if nth > 1 else "")


def checkpoint_due(recipe: Recipe, span: StageSpan, step: int) -> bool:
    """Whether the state after ``step`` global steps is kept."""
    return step == span.end or (step - span.begin) % recipe.checkpoint.every == 0


def evaluation_due(recipe: Recipe, span: StageSpan, step: int) -> bool:
    """Whether the policy after ``step`` global steps is evaluated."""
    every = recipe.evaluation.every
    return step == span.end or (every > 0 and (step - span.begin) % every == 0)
