"""``al-ray eval``: prepare, start what agents need, run them on the held-out tasks, say how they did."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from al_ray.recipe import Recipe
from al_ray.reports.console import Console
from al_ray.run.folder import RunChoice
from al_ray.run.launch.preparation import Prepared, prepared

if TYPE_CHECKING:
    from al_ray.evaluation.evaluate import Evaluation


async def evaluate(recipe: Recipe, choice: RunChoice) -> bool:
    """``recipe`` is what ``evaluation.subject`` makes. Whether anything could be scored."""
    from al_ray.evaluation import report
    from al_ray.reports.health import warnings

    console = Console()
    try:
        with prepared(recipe, choice, console, learn=False) as ready:
            folder, tasks = ready.folder, ready.tasks
            samples = f", {recipe.evaluation.samples} samples each" if recipe.evaluation.samples > 1 else ""
            counts = f"{len(tasks.held_out)} tasks{samples}"
            console.header([f"run {folder.path}", f"model {ready.answered_by}", counts, *tasks.left_out])
            with folder.locked():
                found = await _run(ready, console)
    finally:
        console.close()
    report.show(found, console, folder.path)
    # What failed has just been told.
    others = {key: value for key, value in found.health.items() if key != "health/failed"}
    for warning in warnings(others, recipe.health, found.outcomes, folder.path):
        console.warning(warning)
    console.note(f"\nresults     {folder.path / report.FILE_NAME}")
    if predictions := report.write_predictions(found, recipe, folder.path):
        console.note(f"predictions {predictions}")
    console.note(f"rollouts    al-ray rollouts {folder.path}")
    return bool(found.scores)


async def _run(ready: Prepared, console: Console) -> Evaluation:
    """Run and record it."""
    with console.part("libraries"):
        from al_ray.evaluation import report
        from al_ray.evaluation.evaluate import evaluate
        from al_ray.machines import cluster
        from al_ray.reports.sinks import open_sinks
        from al_ray.run.launch.start import started_for_evaluation
        from al_ray.run.step_report import evaluation_values

    recipe, folder, tasks = ready.recipe, ready.folder, ready.tasks.held_out
    with ExitStack() as stack:
        with console.part("Ray"):
            stack.enter_context(cluster.running(dashboard=False))
        begun = time.perf_counter()
        async with started_for_evaluation(ready, console) as agents:
            found = await evaluate(
                recipe, agents, tasks, 0, lambda done, total: console.phase("evaluation", done, total)
            )
        seconds = time.perf_counter() - begun
        report.write(found, recipe, folder.path)
        metrics = open_sinks(folder.path.name, folder.path, recipe, None)
        metrics.log(0, evaluation_values(found, seconds))
        metrics.close(ok=True)
    return found
