"""How long a run will take, and how many hours of GPUs: before it starts, as an earlier one of the same
recipe tells; of what is left of a stage, as its steps so far tell; and, at its end, how near that came."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from al_ray.errors import UserError
from al_ray.evaluation.estimates import student
from al_ray.recipe import Recipe
from al_ray.recipe.schedule import StageSpan, checkpoint_due, evaluation_due, stage_spans
from al_ray.reports import jsonl_sink
from al_ray.run.folder import RunFolder

SEEN: Final = 5
"""Steps of a stage that are known when it is told, beside the first, in which much is done once."""
_UNITS: Final = (("h", 3600.0), ("min", 60.0), ("s", 1.0))
_BESIDE: Final = ("time/checkpoint", "time/evaluation")
"""The times of a run beside its steps."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Expected, and the ends of the 95 % interval in which they will be, if steps stay as they are."""

    expected: float
    low: float
    high: float

    def times(self, count: float, more: float = 0.0) -> Seconds:
        """So often, and so many seconds more."""
        return Seconds(*(each * count + more for each in (self.expected, self.low, self.high)))


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of the steps of ``span`` after ``done``, with their checkpoints and evaluations."""

    span: StageSpan
    done: int
    step: Seconds
    """One, in the mean."""
    rest: Seconds
    """All of it."""

    def told(self, gpus: int) -> str:
        """Of a run that holds so many."""
        one = f"{self.span.end - self.done} steps more at {_amounts(self.step)} s"
        hours = f", {_amounts(self.rest.times(gpus / 3600))} GPU-hours" if gpus else ""
        return f"{self.span.stage.algorithm}: {one}, in all {_long(self.rest)}{hours}"

    def compared(self, taken: float, gpus: int) -> str:
        """With the seconds that it took, when the stage has ended."""
        said = f"{_long(self.rest)} were foreseen after step {self.done}"
        return f"{self.span.stage.algorithm}: {said}, {_time(taken)} it took{_gpu_hours(taken, gpus)}"


def forecast(
    recipe: Recipe, span: StageSpan, done: int, lines: Sequence[Mapping[str, Any]]
) -> Forecast | None:
    """From the metrics of a run of which ``done`` steps are done; None where too few steps of the stage are
    known, or none is left. Checkpoints and evaluations are taken to last as long as the last one did."""
    known = _sampled(_steps(span, done, lines))
    left = range(done + 1, span.end + 1)
    if len(known) <= SEEN or not left:
        return None
    step = mean_of_further(known[1:], len(left))
    more = _last(lines, "time/checkpoint") * sum(checkpoint_due(recipe, span, each) for each in left)
    more += _last(lines, "time/evaluation") * sum(evaluation_due(recipe, span, each) for each in left)
    return Forecast(span, done, step, step.times(len(left), more))


def mean_of_further(seen: Sequence[float], count: int) -> Seconds:
    """The mean of ``count`` further draws from the normal distribution of what is ``seen``, of which there
    are two at least. It differs from the mean of these with a variance of ``s^2 (1/n + 1/count)``, so
    Student's t gives its interval."""
    mean, spread = statistics.fmean(seen), statistics.stdev(seen)
    half = student(len(seen) - 1) * spread * math.sqrt(1 / len(seen) + 1 / count)
    return Seconds(mean, max(0.0, mean - half), mean + half)


def of_earlier_run(recipe: Recipe, gpus: int) -> str | None:
    """What the newest run took that had this recipe, or this with another seed, and has ended; None where
    there is none."""
    for run in reversed(RunFolder.all_in(Path(recipe.output) / recipe.name)):
        try:
            same = run.recipe_beside(recipe).model_copy(update={"seed": recipe.seed}) == recipe
            lines, spans = jsonl_sink.read(run.path), stage_spans(recipe)
        except UserError:  # of another version, or damaged: this run is another
            continue
        steps = [_steps(span, span.end, lines) for span in spans] if same else []
        if steps and all(len(own) == span.stage.steps for own, span in zip(steps, spans, strict=True)):
            taken = sum(len(own) * statistics.fmean(_sampled(own)) for own in steps)
            taken += sum(line.get(name) or 0.0 for line in lines for name in _BESIDE)
            stages = ", ".join(_of_stage(span, lines) for span in spans)
            told = f"{stages}, in all {_time(taken)}{_gpu_hours(taken, gpus)}"
            return f"as {run.path.name} of the same recipe: {told}"
    return None


def _of_stage(span: StageSpan, lines: Sequence[Mapping[str, Any]]) -> str:
    """Its steps, from the shortest to the longest."""
    own = _sampled(_steps(span, span.end, lines))
    seconds = Seconds(statistics.fmean(own), min(own), max(own))
    return f"{span.stage.algorithm} {_amounts(seconds)} s a step"


def _steps(span: StageSpan, done: int, lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of those that are done."""
    return [line for line in lines if span.begin < line["step"] <= done and "time/step" in line]


def _sampled(steps: Sequence[Mapping[str, Any]]) -> list[float]:
    """Seconds of those whose rollouts were not there already: of others, where there are none else."""
    first = [step for step in steps if not step.get("rollout/recorded")]
    return [step["time/step"] for step in first or steps]


def _gpu_hours(seconds: float, gpus: int) -> str:
    return f", {seconds * gpus / 3600:.3g} GPU-hours" if gpus else ""


def _last(lines: Sequence[Mapping[str, Any]], name: str) -> float:
    """0 where there is none yet."""
    return next((float(line[name]) for line in reversed(lines) if line.get(name) is not None), 0.0)


def _time(seconds: float) -> str:
    name, unit = _unit(seconds)
    return f"{seconds / unit:.3g} {name}"


def _long(seconds: Seconds) -> str:
    name, unit = _unit(seconds.expected)
    return f"{_amounts(seconds.times(1 / unit))} {name}"


def _unit(seconds: float) -> tuple[str, float]:
    return next((name, unit) for name, unit in _UNITS if seconds >= 2 * unit or unit == 1)


def _amounts(seconds: Seconds) -> str:
    return f"{seconds.expected:.3g} ({seconds.low:.3g} to {seconds.high:.3g})"
