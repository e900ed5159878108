"""``al-ray measure``: what the calls of a run's rollouts were worth, measured, beside what credits say."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from al_ray.recipe import Recipe
from al_ray.reports.console import Console
from al_ray.run.folder import RunChoice, RunFolder
from al_ray.run.launch.preparation import Prepared, prepared
from al_ray.run.recorded.measure import Chosen, Wanted, chosen

if TYPE_CHECKING:
    from al_ray.evaluation.measured.values import Measurement


async def measure(run: Path, recipe: Recipe, wanted: Wanted, samples: int, choice: RunChoice) -> bool:
    """``recipe`` is that of the run. Whether any call could be measured."""
    from al_ray.evaluation.measured import report

    folder = RunFolder.open(run)
    subject = chosen(folder, recipe, wanted)
    # Elsewhere than runs, so that the newest run is never a measurement.
    recipe = recipe.model_copy(update={"output": f"{recipe.output}/measurements"})
    console = Console()
    try:
        with prepared(recipe, choice, console, learn=False, weights=subject.weights) as ready:
            ready = replace(ready, recorded=folder.store_url)
            console.header(
                [
                    f"run {ready.folder.path}",
                    f"weights {ready.answered_by}",
                    f"{len(subject.recorded)} rollouts of step {subject.step}, each state {samples} times",
                ]
            )
            with ready.folder.locked():
                found = await _run(ready, subject, folder, samples, console)
    finally:
        console.close()
    compared = report.Compared(found, subject.said, subject.own)
    report.show(compared, console, ready.folder.path)
    about = {"run": str(folder.path), "step": subject.step, "weights": ready.answered_by}
    console.note(f"\nvalues      {report.write(compared, about, ready.folder.path)}")
    console.note(f"rollouts    al-ray rollouts {ready.folder.path}")
    return bool(compared.known)


async def _run(
    ready: Prepared, subject: Chosen, run: RunFolder, samples: int, console: Console
) -> Measurement:
    with console.part("libraries"):
        from al_ray.database.backends import close_log
        from al_ray.evaluation.measured.values import measure
        from al_ray.machines import cluster
        from al_ray.run.launch.start import started_for_evaluation

    with ExitStack() as stack:
        with console.part("Ray"):
            stack.enter_context(cluster.running(dashboard=False))
        stack.callback(close_log, run.store_url)  # which gateways read until they were ended
        async with started_for_evaluation(ready, console) as agents:
            return await measure(
                ready.recipe,
                agents,
                subject.recorded,
                f"measure/{run.path.name}/{subject.weights_name}",
                samples,
                lambda done, total: console.phase("rollouts", done, total),
            )
