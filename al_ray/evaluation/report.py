"""What an evaluation leaves behind: tables on the console, ``evaluation.json`` and the prediction file in
the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from al_ray.evaluation.estimates import Estimate
from al_ray.evaluation.evaluate import Evaluation
from al_ray.evaluation.scores import Result, Scores
from al_ray.machines.whole import whole_file_of_run
from al_ray.protocols import WritePredictions
from al_ray.recipe import Recipe, dotted
from al_ray.reports.console import Console
from al_ray.rollouts.outcome import errors
from al_ray.types import JSON

FILE_NAME: Final = "evaluation.json"
_ERRORS: Final = 5
"""That are told: the commonest."""


def show(evaluation: Evaluation, console: Console, run: Path) -> None:
    """The metrics, those of each part, and the rollouts of ``run`` without a score, each error once."""
    rows = [(name, *_cells(found)) for name, found in evaluation.scores.items()]
    console.table("Metrics", ("metric", "value", "95 % interval", "method", "tasks"), rows)
    for key, parts in evaluation.by.items():
        names = list(evaluation.scores)
        console.table(
            f"By {key}", (key, "tasks", *names), [_part(value, part, names) for value, part in parts.items()]
        )
    if evaluation.failed:
        told = ", ".join(f"{count} {reason}" for reason, count in evaluation.failed.items())
        failed = sum(evaluation.failed.values())
        console.note(f"\n{failed} of {len(evaluation.results)} rollouts have no score: {told}")
        for each in errors(evaluation.outcomes)[:_ERRORS]:
            console.note(f"  {each.count} x {each.error}: al-ray rollouts {run} {each.rollout}")


def write(evaluation: Evaluation, recipe: Recipe, folder: Path) -> Path:
    """``evaluation.json``, whole or not there."""
    told = {
        "model": recipe.model.path,
        "upstream": {name: upstream.base_url for name, upstream in recipe.upstreams.items()}.get(
            recipe.model.name
        ),
        "data": recipe.data.model_dump(mode="json"),
        "sampling": recipe.evaluation.sampling.model_dump(mode="json"),
        "samples": evaluation.samples,
        "rollouts": len(evaluation.results),
        "failed": evaluation.failed,
        "primary": evaluation.primary,
        "metrics": _as_json(evaluation.scores),
        "by": {
            key: {value: _as_json(part) for value, part in parts.items()}
            for key, parts in evaluation.by.items()
        },
        "tasks": _per_task(evaluation),
    }
    path = folder / FILE_NAME
    with whole_file_of_run(path) as file:
        file.write(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return path


def write_predictions(evaluation: Evaluation, recipe: Recipe, folder: Path) -> Path | None:
    """The file that the task's official script reads, from the first sample of each task that has an
    output; None where the recipe names no writer."""
    named = recipe.evaluation.predictions
    if named is None:
        return None
    first: dict[str, Result] = {}
    for result in evaluation.results:
        if result.episode is not None:
            first.setdefault(result.group, result)
    pairs = [(result.task.data, result.output) for result in first.values()]
    write_file: WritePredictions = dotted.load(named, "evaluation.predictions")
    return write_file(pairs, folder)


def _cells(found: Estimate) -> tuple[str, str, str, int]:
    return f"{found.value:.4f}", found.interval(".4f"), found.method, found.tasks


def _part(value: str, part: Scores, names: list[str]) -> tuple[object, ...]:
    """A row: the intervals of small parts are wide, and are told with each."""
    cells = [
        f"{part[name].value:.3f} ({part[name].interval('.2f')})" if name in part else "-" for name in names
    ]
    return value, max((found.tasks for found in part.values()), default=0), *cells


def _as_json(scores: Scores) -> Mapping[str, JSON]:
    return {name: asdict(found) for name, found in scores.items()}


def _per_task(evaluation: Evaluation) -> list[Mapping[str, Any]]:
    """For comparisons with another evaluation, task by task: the rewards of each sample that has a score."""
    groups: dict[str, list[Result]] = {}
    for result in evaluation.results:
        groups.setdefault(result.group, []).append(result)
    return [
        {"id": of_task[0].task.id, "rewards": [result.rewards for result in of_task if result.rewards]}
        for of_task in groups.values()
    ]
