"""``al-ray train``: prepare, start the parts, run the loop, say where things are."""

from __future__ import annotations

from contextlib import ExitStack

from rich.table import Table
from rich.text import Text

from al_ray.cli import interruptible
from al_ray.errors import UselessRunError
from al_ray.recipe import Recipe
from al_ray.reports.console import Console, terminal
from al_ray.run.ended import over_seeds
from al_ray.run.folder import RunChoice, RunFolder
from al_ray.run.forecast import of_earlier_run
from al_ray.run.launch.footprint import memory_lines
from al_ray.run.launch.lengths import warnings_of_lengths
from al_ray.run.launch.preparation import Prepared, prepared


def train_seeds(recipe: Recipe, seeds: int, choice: RunChoice) -> None:
    """A run for each of so many seeds, one after the other, and what they came to. Raises
    ``UselessRunError`` if one of them taught nothing."""
    runs = over_seeds.runs(recipe, seeds, choice)
    failed = over_seeds.done(runs, lambda run: interruptible.run(train(run.recipe, run.choice)))
    out = terminal()
    table = Table("seed", "first accuracy", "last accuracy", "run")
    for run in runs:
        ends = over_seeds.ends(run.path)
        table.add_row(str(run.recipe.seed), *map(number, ends.accuracies), Text(str(run.path)))
    out.print(table)
    ended = [run for run in runs if run.path not in failed]
    table = Table("of the last evaluations", "mean", "95 % interval", "seeds")
    for name, found in over_seeds.summary(ended).items():
        table.add_row(Text(name), number(found.value), found.interval(".4f"), str(found.tasks))
    out.print(table)
    if failed:
        told = ", ".join(f"{path.name}: {error}" for path, error in failed.items())
        raise UselessRunError(f"{len(failed)} of {seeds} runs taught nothing, and are not counted: {told}")


def number(value: float | None) -> str:
    """As it stands in tables."""
    return "-" if value is None else f"{value:.4f}"


async def train(recipe: Recipe, choice: RunChoice) -> None:
    """From wherever the run stands to its end."""
    console = Console()
    try:
        with prepared(recipe, choice, console, learn=True) as ready:
            folder, tasks = ready.folder, ready.tasks
            counts = f"{len(tasks.train)} tasks, {len(tasks.held_out)} held out"
            console.header([f"run {folder.path}", f"model {ready.answered_by}", counts, *tasks.left_out])
            if ready.model is not None:
                console.header(warnings_of_lengths(recipe, ready.model.folder, tasks))
                console.header(memory_lines(recipe, ready.model.plan, ready.model.folder))
                console.forecast(of_earlier_run(recipe, ready.model.plan.gpus))
            with folder.locked():
                await _run(ready, console)
    finally:
        console.close()
    _tell_the_places(recipe, folder, console)


def _tell_the_places(recipe: Recipe, folder: RunFolder, console: Console) -> None:
    from al_ray.reports.plot import plot_run

    console.note(f"checkpoint  {folder.checkpoint(folder.checkpoints()[-1])}")
    console.note(f"plot        {plot_run(recipe, folder.path)}")
    console.note(f"rollouts    al-ray rollouts {folder.path}")


async def _run(ready: Prepared, console: Console) -> None:
    with console.part("libraries"):
        from al_ray.machines import cluster
        from al_ray.reports.health import Health
        from al_ray.reports.sinks import open_sinks
        from al_ray.run.driver import Run
        from al_ray.run.launch.start import started

    recipe, folder, tasks = ready.recipe, ready.folder, ready.tasks
    with ExitStack() as stack:
        with console.part("Ray"):
            stack.enter_context(cluster.running(dashboard=recipe.placement.dashboard))
        steps = folder.checkpoints()
        with console.part("metrics"):
            metrics = open_sinks(folder.path.name, folder.path, recipe, steps[-1] if steps else None)
        ended_well = False
        try:
            async with started(ready, console) as (agents, policy):
                health = Health(recipe.health, folder.path)
                gpus = ready.model.plan.gpus if ready.model else 0
                held_out = tasks.held_out
                run = Run(
                    recipe, folder, agents, policy, metrics, console, tasks.train, held_out, health, gpus
                )
                await run.train()
            ended_well = True
        finally:
            metrics.close(ok=ended_well)
