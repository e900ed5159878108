"""What comes before a run: is the recipe sound, where would it go, is everything there."""

from __future__ import annotations

from pathlib import Path

from al_ray.actors.agent import environment
from al_ray.actors.agent.walls import wall
from al_ray.data.tasks import load_tasks
from al_ray.errors import Problem, UserError
from al_ray.machines.plan import plan
from al_ray.protocols import Indexed
from al_ray.recipe import Recipe, loading
from al_ray.reports.console import Console
from al_ray.run.preparation import nodes, services


def validate(recipe: Recipe, path: Path) -> None:
    """What loading the recipe leaves to be tried: its tasks."""
    tasks = load_tasks(recipe)
    environment.check_tasks(recipe.agent, [*tasks.train, *tasks.held_out])
    if recipe.agent.sandbox is not None:
        wall.try_out(recipe.agent)
    print(f"{path}: valid; {len(tasks.train)} tasks to train on, {len(tasks.held_out)} held out")
    for line in tasks.left_out:
        print(line)


def dry_run(recipe: Recipe) -> None:
    """Print the resolved recipe and where everything would go."""
    console = Console()
    tasks = load_tasks(recipe)
    if recipe.placement.cluster:
        placed = plan(recipe, recipe.placement.cluster)
    else:
        with nodes() as found:
            placed = plan(recipe, found)
    console.header(loading.dump(recipe).splitlines())
    console.header([f"{len(tasks.train)} tasks to train on, {len(tasks.held_out)} held out", *tasks.left_out])
    rows = [(", ".join(b.tenants), str(b.node), f"{b.cpus}", str(b.gpus)) for b in placed.bundles]
    beside = ["store", "gateway", "runners", *(f"service {name}" for name in recipe.services)]
    rows.append((", ".join(beside), "driver's", "0", "0"))
    console.table(f"placement: {placed.device}, {placed.layout}", ("who", "node", "cores", "GPUs"), rows)


def index(recipe: Recipe) -> None:
    """Make what the services answer from, as far as it is not there."""
    console = Console()
    indexed = {name: made for name, made in services(recipe).items() if isinstance(made, Indexed)}
    if not indexed:
        raise UserError(Problem("services", list(recipe.services), "the recipe has no service with an index"))
    try:
        for name, service in indexed.items():
            console.note(f"{name}: {service.build(console.phase)}")
    finally:
        console.close()


def model(name: str) -> None:
    """Have a model's folder, downloaded or converted where it is not there yet."""
    import logging

    from al_ray.machines import models

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(models.resolve(name))


def doctor() -> bool:
    """Print the checks; whether all are well."""
    from al_ray.machines.doctor import checks

    found = checks()
    rows = [("ok" if check.ok else "LACKS", check.name, check.found, check.cure) for check in found]
    Console().table("this machine", ("", "what", "found", "cure"), rows)
    return all(check.ok for check in found)
