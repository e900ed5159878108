"""What comes before a run: is the recipe sound, where would it go, is everything there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al_ray.actors.agent import environment, interpreter
from al_ray.actors.agent.walls import wall
from al_ray.data.tasks import Tasks, load_tasks
from al_ray.errors import Problem, UserError
from al_ray.machines.plan import Plan, more_runners, plan
from al_ray.models import adapters, folders
from al_ray.protocols import Indexed
from al_ray.recipe import Recipe, loading
from al_ray.reports.console import Console
from al_ray.run.folder import require_lasting
from al_ray.run.forecast import of_earlier_run
from al_ray.run.launch.footprint import memory_lines
from al_ray.run.launch.lengths import warnings_of_lengths
from al_ray.run.launch.preparation import check_services, nodes, services
from al_ray.run.stages.teacher import require_teachers

if TYPE_CHECKING:
    from al_ray.machines.doctor import Check


def validate(recipe: Recipe, path: Path) -> None:
    """What loading the recipe leaves to be tried: output, tasks, an agent in processes, services, model and
    placement, all that is wrong with them at once."""
    problems: list[Problem] = []

    def tried(attempt: Callable[[], Any]) -> Any:
        try:
            return attempt()
        except UserError as error:
            problems.extend(error.problems)

    tried(lambda: require_lasting(recipe.output))
    tasks: Tasks | None = tried(lambda: load_tasks(recipe))
    if tasks is not None:
        every = [*tasks.train, *tasks.held_out]
        tried(lambda: environment.check_tasks(recipe.agent, every))
    if recipe.agent.requirements is None:  # else its packages are installed first, by a run
        tried(lambda: interpreter.check(recipe.agent, recipe.model.name, recipe.services))
    walls: str | None = None
    if recipe.agent.sandbox is not None:
        walls = tried(lambda: wall.try_out(recipe.agent))
    tried(lambda: check_services(recipe))
    model: Path | None = tried(lambda: folders.check(recipe.model.path))
    if model is not None:
        tried(lambda: folders.require_whole(model, recipe.model))
        tried(lambda: folders.require_trainable(model, recipe.model))
        tried(lambda: require_teachers(recipe, model))
    tried(lambda: adapters.require_alike(recipe))
    placed: Plan | None = tried(lambda: _planned(recipe))
    reckoned: list[str] = []
    if model is not None and placed is not None:
        folder, where = model, placed
        tried(lambda: folders.require_adaptable(folder, recipe.model, where.device))
        reckoned = tried(lambda: memory_lines(recipe, where, folder)) or []
    if problems:
        raise UserError(*problems)
    assert tasks is not None
    print(f"{path}: valid; {len(tasks.train)} tasks to train on, {len(tasks.held_out)} held out")
    lengths = [] if model is None else warnings_of_lengths(recipe, model, tasks)
    for line in (*tasks.left_out, *([f"warning: {walls}"] if walls else []), *lengths, *reckoned):
        print(line)


def dry_run(recipe: Recipe) -> None:
    """Print the resolved recipe and where everything would go."""
    console = Console()
    tasks = load_tasks(recipe)
    placed = _planned(recipe)
    console.header(loading.as_yaml(loading.shown(recipe)).splitlines())
    console.header([f"{len(tasks.train)} tasks to train on, {len(tasks.held_out)} held out", *tasks.left_out])
    rows = [
        (", ".join(b.tenants), "any with room" if b.node is None else str(b.node), f"{b.cpus}", str(b.gpus))
        for b in (*placed.bundles, *placed.more, *more_runners(recipe))
    ]
    beside = ["store", "gateway", "runners", *(f"service {name}" for name in recipe.services)]
    rows.append((", ".join(beside), "driver's", "0", "0"))
    console.table(f"placement: {placed.device}, {placed.layout}", ("who", "node", "cores", "GPUs"), rows)
    if (model := folders.at_hand(recipe.model.path)) is not None:
        console.header(memory_lines(recipe, placed, model))
    console.forecast(of_earlier_run(recipe, placed.gpus))


def _planned(recipe: Recipe) -> Plan:
    """On the cluster that the recipe describes, else on the one that a run would use."""
    if recipe.placement.cluster:
        return plan(recipe, recipe.placement.cluster)
    console = Console()
    try:
        with nodes(console) as found:
            return plan(recipe, found)
    finally:
        console.close()


def index(recipe: Recipe) -> None:
    """Make what the services answer from, as far as it is not there."""
    console = Console()
    indexed = {name: made for name, made in services(recipe).items() if isinstance(made, Indexed)}
    if not indexed:
        raise UserError(Problem("services", list(recipe.services), "the recipe has no service with an index"))
    try:
        for name, service in indexed.items():
            with console.part(f"index of {name}"):
                folder = service.build(console.phase)
            console.note(f"{name}: {folder}")
    finally:
        console.close()


def model(name: str) -> None:
    """Have a model's folder, downloaded or converted where it is not there yet."""
    console = Console(sys.stderr)  # the folder alone is for whoever reads the output
    try:
        with console.part(f"model {name}"):
            folder = folders.resolve(name, console.phase)
    finally:
        console.close()
    print(folder)


def begin(folder: Path, framework: str) -> None:
    """Write a project, and say what to do with it."""
    from al_ray.run.starter.project import missing, write

    for file in write(folder, framework):
        print(file)
    lacking = missing(framework)
    install = f"pip install {' '.join(lacking)}\n" if lacking else ""
    print(f"\n{install}cd {folder}\nal-ray try {folder.name}.yaml\nal-ray train {folder.name}.yaml")


def doctor() -> bool:
    """Print the checks; whether all are well."""
    from al_ray.machines.doctor import checks

    return _told("this machine", checks())


def doctor_of_cluster(recipe: Recipe | None) -> bool:
    """Print the checks of every node of the cluster at ``RAY_ADDRESS``, or of the one on this machine."""
    from al_ray.machines import cluster, node_doctor
    from al_ray.models import folders

    needs = node_doctor.Needs()
    if recipe is not None:
        hosted = recipe.model.name in recipe.upstreams
        model = None if hosted else folders.resolve(recipe.model.path)
        # One that runs in processes is imported there, with variables of its own.
        imported = None if recipe.agent.isolation == "process" else recipe.agent.run
        needs = node_doctor.Needs(model, imported, Path(recipe.output).absolute())
    with cluster.joined(os.environ.get("RAY_ADDRESS", "auto")):
        found = node_doctor.checks(needs)
    well = [_told(f"node {node}", checks) for node, checks in found.items()]
    return all(well)


def _told(title: str, checks: Sequence[Check]) -> bool:
    """Print the checks; whether all are well."""
    rows = [("ok" if check.ok else "LACKS", check.name, check.found, check.cure) for check in checks]
    Console().table(title, ("", "what", "found", "cure"), rows)
    return all(check.ok for check in checks)
