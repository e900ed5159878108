"""A recipe over several seeds: a run for each, and what the runs came to together.

A recipe describes one run, which can be resumed, replayed and audited; so several are several
folders, named after their seeds, and nothing but the seed differs between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from al_ray.errors import Problem, UselessRunError, UserError
from al_ray.evaluation.estimates import Estimate, over_seeds
from al_ray.recipe import Recipe
from al_ray.reports import jsonl_sink
from al_ray.reports.names import EVALUATION
from al_ray.run.folder import RunChoice, RunFolder

ACCURACY: Final = "eval/accuracy"
_NO_SCORES: Final = {metric.key for metric in EVALUATION} - {ACCURACY}
"""What every evaluation tells of itself beside scores: counts, shares and what it gained."""


@dataclass(frozen=True, slots=True)
class SeedRun:
    """A run that is wanted."""

    recipe: Recipe
    choice: RunChoice
    path: Path


@dataclass(frozen=True, slots=True)
class Ends:
    """The first and the last evaluation of a run, as they were logged; empty where there is none."""

    first: Mapping[str, float]
    last: Mapping[str, float]
    evaluations: int = 0
    """How many there are."""

    @property
    def accuracies(self) -> tuple[float | None, float | None]:
        """None where there is no evaluation, or none of its tasks has a score."""
        return self.first.get(ACCURACY), self.last.get(ACCURACY)

    @property
    def gain(self) -> float | None:
        """By how much the accuracy rose from the first to the last, if that can be told."""
        first, last = self.accuracies
        return last - first if self.evaluations > 1 and first is not None and last is not None else None


def runs(recipe: Recipe, seeds: int, choice: RunChoice) -> Sequence[SeedRun]:
    """One for each seed, the recipe's first. Those that are there are resumed, where that is asked for, and
    the others begun. Raises ``UserError``, also where none is there to be resumed."""
    if choice.resume and choice.name is None:
        raise UserError(Problem("--resume", "--seeds", "give --run too: the name that the runs begin with"))
    name = choice.new_name
    found = []
    for seed in range(recipe.seed, recipe.seed + seeds):
        path = Path(recipe.output) / recipe.name / f"{name}-seed{seed}"
        resumed = choice.resume and not RunFolder(path).is_free()
        of_seed = recipe.model_copy(update={"seed": seed})
        found.append(SeedRun(of_seed, RunChoice(path.name, resumed), path))
    if choice.resume and not any(run.choice.resume for run in found):
        raise UserError(
            Problem("--resume", f"{name}-seed{recipe.seed}", "there is no such run, nor another seed's")
        )
    if not choice.resume and (there := [run.path for run in found if not RunFolder(run.path).is_free()]):
        cure = "this run exists; give another --run, or --resume to go on with it"
        raise UserError(Problem("run", str(there[0]), cure))
    return found


def done(wanted: Sequence[SeedRun], train: Callable[[SeedRun], None]) -> Mapping[Path, str]:
    """Train them one after the other. One that teaches nothing keeps no other from it: returned are those,
    by path, with the reason. Raises what else ``train`` raises."""
    failed = {}
    for run in wanted:
        try:
            train(run)
        except UselessRunError as error:
            failed[run.path] = str(error)
    return failed


def ends(run: Path) -> Ends:
    """Of the run at this path."""
    lines = [line for line in jsonl_sink.read(run) if ACCURACY in line]
    if not lines:
        return Ends({}, {})
    first, last = (
        {key: line[key] for key in line if key.startswith("eval/")} for line in (lines[0], lines[-1])
    )
    return Ends(first, last, len(lines))


def summary(wanted: Sequence[SeedRun]) -> Mapping[str, Estimate]:
    """What the last evaluations of the runs found, on average over runs, and by how much the accuracy rose;
    of scores that all of them have."""
    found = [ends(run.path) for run in wanted]
    if not found or not all(each.last for each in found):
        return {}
    shared = [key for key in found[0].last if all(_is_number(each.last.get(key)) for each in found)]
    values = {key: [each.last[key] for each in found] for key in shared if key not in _NO_SCORES}
    estimates = {key: over_seeds(of_runs) for key, of_runs in values.items()}
    gains = [each.gain for each in found if each.gain is not None]
    if len(gains) == len(found):
        estimates[f"{ACCURACY}, since the first"] = over_seeds(gains)
    return estimates


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
