"""What the verbs do, in terms of the parts; the command line only reads their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from al_ray import models, plan, preflight, rollout_view
from al_ray import recipe as recipes
from al_ray.config import NodeShape, Recipe
from al_ray.console import Console
from al_ray.database import Database
from al_ray.run_folder import RunFolder


async def train(recipe: Recipe, run: str | None, *, resume: bool) -> None:
    """Check everything, start the parts, run the loop, say where things are."""
    console = Console()
    tasks = preflight.tasks(recipe)
    model = models.resolve(recipe.model.path)
    _check_placement(recipe)
    folder = RunFolder.resume(recipe, run) if resume else RunFolder.create(recipe, run)
    console.header([f"run {folder.path}", f"model {model}", f"{len(tasks.train)} tasks, "
                    f"{len(tasks.held_out)} held out"])  # fmt: skip
    from al_ray.plot import plot_run

    try:
        await _run(recipe, folder, model, tasks, console)
    finally:
        console.close()
    console.note(f"checkpoint  {folder.checkpoint(folder.checkpoints()[-1])}")
    console.note(f"plot        {plot_run(folder.path)}")
    console.note(f"rollouts    al-ray rollouts {folder.path}")


async def _run(
    recipe: Recipe, folder: RunFolder, model: Path, tasks: preflight.Tasks, console: Console
) -> None:
    from al_ray import cluster
    from al_ray.driver import Run
    from al_ray.metrics import open_metrics
    from al_ray.parts import started

    console.phase("start")
    with cluster.connected():
        steps = folder.checkpoints()
        metrics = open_metrics(folder.path.name, folder.path, recipe, steps[-1] if steps else None)
        ended_well = False
        try:
            async with started(recipe, model, folder) as parts:
                assert parts.learners is not None
                run = Run(recipe, folder, parts, parts.learners, metrics, console, tasks.train, tasks.held_out)
                await run.train()
            ended_well = True
        finally:
            metrics.close(ok=ended_well)


def dry_run(recipe: Recipe) -> None:
    """Print the resolved recipe and where everything would go."""
    console = Console()
    tasks = preflight.tasks(recipe)
    placed = plan.plan(recipe, _cluster(recipe))
    console.header(recipes.dump(recipe).splitlines())
    console.header([f"{len(tasks.train)} tasks to train on, {len(tasks.held_out)} held out"])
    rows = [(", ".join(b.tenants), str(b.node), f"{b.cpus:g}", str(b.gpus)) for b in placed.bundles]
    rows.append(("store, gateway, runners", "driver's", "0", "0"))
    console.table(f"placement: {placed.device}, {placed.layout}", ("who", "node", "cores", "GPUs"), rows)


async def evaluate_recipe(recipe: Recipe) -> None:
    """The recipe's model as it is."""
    await _evaluate(recipe, models.resolve(recipe.model.path))


async def evaluate_checkpoint(checkpoint: Path, overrides: Sequence[str]) -> None:
    """A checkpoint of a run, by the run's recipe."""
    recipe = recipes.load(checkpoint.resolve().parents[1] / "recipe.yaml", overrides)
    await _evaluate(recipe, checkpoint.resolve())


async def _evaluate(recipe: Recipe, model: Path) -> None:
    import tempfile
    import time

    from al_ray import cluster
    from al_ray.evaluation import evaluate
    from al_ray.parts import started

    console = Console()
    tasks = preflight.tasks(recipe)
    _check_placement(recipe)
    with tempfile.TemporaryDirectory() as scratch, cluster.connected():
        async with started(recipe, model, RunFolder(Path(scratch)), learn=False) as parts:
            begun = time.perf_counter()
            result = await evaluate(recipe, parts, tasks.held_out, model.name,
                                    lambda done, total: console.phase("evaluation", done, total))  # fmt: skip
            seconds = time.perf_counter() - begun
            console.evaluation(result.name, result.accuracy, result.stderr, result.tasks, seconds)
    console.close()


def rollouts(run: Path, rollout: str | None, batch: str | None, status: str | None, limit: int) -> None:
    """List or show what the store of a run holds; the run may be under way."""
    from rich.console import Console as Terminal

    database = Database(RunFolder.open(run).store_url)
    if rollout is not None:
        Terminal(soft_wrap=True).print(rollout_view.show(rollout_view.find(database, rollout)))
    else:
        Terminal().print(rollout_view.rollouts_table(database.rollouts(batch, status)[-limit:]))


def doctor() -> bool:
    """Print the checks; whether all are well."""
    from al_ray.doctor import checks

    found = checks()
    rows = [("ok" if check.ok else "LACKS", check.name, check.found, check.cure) for check in found]
    Console().table("this machine", ("", "what", "found", "cure"), rows)
    return all(check.ok for check in found)


def _cluster(recipe: Recipe) -> Sequence[NodeShape]:
    """The nodes that the recipe describes, else those of this machine."""
    return recipe.placement.cluster or plan.this_machine()


def _check_placement(recipe: Recipe) -> None:
    import os

    if not os.environ.get("RAY_ADDRESS"):  # a cluster is asked once it is connected
        plan.plan(recipe, _cluster(recipe))
