"""What the verbs do, in terms of the parts; the command line only reads their arguments."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from al_ray.actors.agent import interpreter
from al_ray.data import task_order
from al_ray.data import tasks as preflight
from al_ray.database.reader import Records
from al_ray.errors import Problem, UserError
from al_ray.evaluation.subject import Subject
from al_ray.machines import models, plan
from al_ray.protocols import Indexed
from al_ray.recipe import NodeShape, Recipe, loading
from al_ray.reports.console import Console, terminal
from al_ray.rollouts import search as rollout_search
from al_ray.rollouts import terminal as rollout_view
from al_ray.rollouts.search import Order, Search
from al_ray.run.folder import RunFolder
from al_ray.types import Mode, RolloutStatus, Task

if TYPE_CHECKING:
    from al_ray.evaluation.evaluate import Evaluation


async def train(recipe: Recipe, run: str | None, new_run: str, *, resume: bool) -> None:
    """Check everything, start the parts, run the loop, say where things are."""
    console = Console()
    tasks = preflight.tasks(recipe)
    preflight.check_services(recipe)
    interpreter.check(recipe.agent)
    model = models.resolve(recipe.model.path)
    plan.plan(recipe, _nodes())
    folder = RunFolder.resume(recipe, run) if resume else RunFolder.create(recipe, run or new_run)
    folder.require_tasks(task_order.digest([*tasks.train, *tasks.held_out]))
    console.header([f"run {folder.path}", f"model {model}", f"{len(tasks.train)} tasks, "
                    f"{len(tasks.held_out)} held out", *tasks.left_out])  # fmt: skip
    from al_ray.reports.plot import plot_run

    try:
        with folder.locked():
            await _run(recipe, folder, model, tasks, console)
    finally:
        console.close()
    console.note(f"checkpoint  {folder.checkpoint(folder.checkpoints()[-1])}")
    console.note(f"plot        {plot_run(recipe, folder.path)}")
    console.note(f"rollouts    al-ray rollouts {folder.path}")


async def _run(
    recipe: Recipe, folder: RunFolder, model: Path, tasks: preflight.Tasks, console: Console
) -> None:
    from al_ray.machines import cluster
    from al_ray.machines.placement import cluster_shape
    from al_ray.reports.metrics import open_metrics
    from al_ray.run.driver import Run
    from al_ray.run.start import started

    console.phase("start")
    with cluster.connected():
        steps = folder.checkpoints()
        metrics = open_metrics(folder.path.name, folder.path, recipe, steps[-1] if steps else None)
        ended_well = False
        try:
            placed = plan.plan(recipe, cluster_shape())
            async with started(recipe, placed, model, folder) as (agents, policy):
                await Run(
                    recipe, folder, agents, policy, metrics, console, tasks.train, tasks.held_out
                ).train()
            ended_well = True
        finally:
            metrics.close(ok=ended_well)


def dry_run(recipe: Recipe) -> None:
    """Print the resolved recipe and where everything would go."""
    console = Console()
    tasks = preflight.tasks(recipe)
    placed = plan.plan(recipe, recipe.placement.cluster or _nodes())
    console.header(loading.dump(recipe).splitlines())
    console.header([f"{len(tasks.train)} tasks to train on, {len(tasks.held_out)} held out", *tasks.left_out])
    rows = [(", ".join(b.tenants), str(b.node), f"{b.cpus}", str(b.gpus)) for b in placed.bundles]
    beside = ["store", "gateway", "runners", *(f"service {name}" for name in recipe.services)]
    rows.append((", ".join(beside), "driver's", "0", "0"))
    console.table(f"placement: {placed.device}, {placed.layout}", ("who", "node", "cores", "GPUs"), rows)


async def evaluate(subject: Subject, run: str | None, new_run: str, *, resume: bool) -> bool:
    """Run the agent on the held-out tasks and say how it did; whether anything could be scored."""
    from al_ray.evaluation import report
    from al_ray.machines import cluster
    from al_ray.reports.metrics import open_metrics
    from al_ray.run.step_report import evaluation_values

    console = Console()
    recipe = subject.recipe
    tasks = preflight.tasks(recipe)
    preflight.check_services(recipe)
    interpreter.check(recipe.agent)
    if subject.model is not None:
        plan.plan(recipe, _nodes())
    folder = RunFolder.resume(recipe, run) if resume else RunFolder.create(recipe, run or new_run)
    folder.require_tasks(task_order.digest(tasks.held_out))
    model = subject.model or recipe.upstreams[recipe.model.name].base_url
    samples = f", {recipe.evaluation.samples} samples each" if recipe.evaluation.samples > 1 else ""
    told = [f"run {folder.path}", f"model {model}", f"{len(tasks.held_out)} tasks{samples}"]
    console.header([*told, *tasks.left_out])
    try:
        with folder.locked(), cluster.connected():
            begun = time.perf_counter()
            found = await _run_evaluation(subject, folder, tasks.held_out, console)
            seconds = time.perf_counter() - begun
            written = report.write(found, recipe, folder.path)
            metrics = open_metrics(folder.path.name, folder.path, recipe, None)
            metrics.log(0, evaluation_values(found, seconds))
            metrics.close(ok=True)
    finally:
        console.close()
    report.show(found, console)
    console.note(f"\nresults     {written}")
    if predictions := report.write_predictions(found, recipe, folder.path):
        console.note(f"predictions {predictions}")
    console.note(f"rollouts    al-ray rollouts {folder.path}")
    return bool(found.scores)


async def _run_evaluation(
    subject: Subject, folder: RunFolder, tasks: Sequence[Task], console: Console
) -> Evaluation:
    from al_ray.evaluation.evaluate import evaluate
    from al_ray.machines.placement import cluster_shape
    from al_ray.run.start import started, started_for_hosted

    recipe = subject.recipe
    console.phase("start")
    async with AsyncExitStack() as stack:
        if subject.model is None:
            agents = await stack.enter_async_context(started_for_hosted(recipe, folder))
        else:
            placed = plan.plan(recipe, cluster_shape())
            serving = started(recipe, placed, subject.model, folder, learn=False)
            agents, _ = await stack.enter_async_context(serving)
        return await evaluate(
            recipe, agents, tasks, 0, lambda done, total: console.phase("evaluation", done, total)
        )


def search(run: Path, conditions: Mapping[str, Any]) -> Search:
    """What the command line asks for of the rollouts of a run."""
    for name, choices in (("status", tuple(RolloutStatus)), ("mode", get_args(Mode))):
        if conditions.get(name) not in (None, *choices):
            raise UserError(Problem(f"--{name}", conditions[name], f"one of {', '.join(choices)}"))
    return Search(**conditions, dimension=RunFolder.open(run).recipe().transitions.reward)


def order(name: str) -> Order:
    """What ``--sort`` names."""
    if name not in tuple(Order):
        raise UserError(Problem("--sort", name, f"one of {', '.join(Order)}"))
    return Order(name)


def list_rollouts(run: Path, wanted: Search, by: Order, *, reverse: bool, limit: int, page: int) -> None:
    """A table of those that fit; the run may be under way."""
    with closing(Records(RunFolder.open(run).store_url)) as records:
        found = rollout_search.last(records, wanted, by, reverse=reverse, limit=limit, page=page)
    terminal().print(rollout_view.rollouts_table(found[-limit:], wanted.dimension))
    if len(found) > limit:
        terminal().print(f"there are more before these: --page {page + 1}")


def show_rollout(run: Path, rollout: str) -> None:
    """All of one rollout, named by its id or the beginning of it."""
    folder = RunFolder.open(run)
    with closing(Records(folder.store_url)) as records:
        found = rollout_search.find(records, rollout)
    terminal().print(rollout_view.show(found, folder.recipe().transitions.reward))


def export(run: Path, wanted: Search, what: str, format: str, output: Path) -> str:
    """Write the records to the file; says what was written."""
    from al_ray.rollouts.export import Export
    from al_ray.rollouts.export import export as write

    folder = RunFolder.open(run)
    with closing(Records(folder.store_url)) as records:
        rows = write(Export(records, wanted, folder.recipe().transitions), what, format, output)
    return f"{output}: {rows} {what}"


def index(recipe: Recipe) -> None:
    """Make what the services answer from, as far as it is not there."""
    console = Console()
    indexed = {name: s for name, s in preflight.services(recipe).items() if isinstance(s, Indexed)}
    if not indexed:
        raise UserError(Problem("services", list(recipe.services), "the recipe has no service with an index"))
    try:
        for name, service in indexed.items():
            console.note(f"{name}: {service.build(console.phase)}")
    finally:
        console.close()


def doctor() -> bool:
    """Print the checks; whether all are well."""
    from al_ray.machines.doctor import checks

    found = checks()
    rows = [("ok" if check.ok else "LACKS", check.name, check.found, check.cure) for check in found]
    Console().table("this machine", ("", "what", "found", "cure"), rows)
    return all(check.ok for check in found)


def _nodes() -> Sequence[NodeShape]:
    """Those of the cluster that a run would use; without one, this machine."""
    if not os.environ.get("RAY_ADDRESS"):
        return plan.this_machine()
    from al_ray.machines import cluster
    from al_ray.machines.placement import cluster_shape

    with cluster.connected():
        return cluster_shape()
