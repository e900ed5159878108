"""What a run needs before anything starts: checked and chosen once, in one order for every verb.

The order is the user's: first what costs nothing to try, then what may be downloaded, then the cluster, and
the run's folder last, so that a mistake leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from al_ray.actors.agent import environment, interpreter
from al_ray.actors.agent.walls import wall
from al_ray.data.task_order import digest
from al_ray.data.tasks import Tasks, load_tasks
from al_ray.errors import Problem, UserError, in_a_line
from al_ray.machines.plan import Plan, plan, this_machine
from al_ray.models import adapters, folders
from al_ray.protocols import Service
from al_ray.recipe import NodeShape, Recipe, dotted
from al_ray.reports.console import Console
from al_ray.run.folder import RunChoice, RunFolder, require_lasting
from al_ray.run.stages.teacher import require_teachers

_OF_SERVICES: Final = ("check", "start", "answer", "probe")


@dataclass(frozen=True, slots=True)
class PlacedModel:
    """A model that the run's own engines answer with."""

    folder: Path
    plan: Plan


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can start."""

    recipe: Recipe
    folder: RunFolder
    tasks: Tasks
    model: PlacedModel | None
    """None: a hosted model stands in the model's place."""
    recorded: str | None = None
    """The database of the run whose rollouts are repeated, if any are."""

    @property
    def answered_by(self) -> str:
        """The model's folder, or the URL that it is served at."""
        if self.model is None:
            return self.recipe.upstreams[self.recipe.model.name].base_url
        return str(self.model.folder)


@contextmanager
def prepared(
    recipe: Recipe, choice: RunChoice, console: Console, *, learn: bool, weights: Path | None = None
) -> Iterator[Prepared]:
    """Without ``learn`` only the held-out tasks count. ``weights`` is a folder whose model answers under the
    name of the recipe's. Raises ``UserError`` for whatever keeps the run from
    its start. Inside, a cluster that ``RAY_ADDRESS`` names is connected; nothing has been started."""
    require_lasting(recipe.output)
    with console.part("tasks"):
        tasks = load_tasks(recipe)
        environment.check_tasks(recipe.agent, [*tasks.train, *tasks.held_out])
    check_services(recipe)
    with console.part("the agent's environment"):
        interpreter.check(recipe.agent, recipe.model.name, recipe.services)
        if recipe.agent.sandbox is not None and (warning := wall.try_out(recipe.agent)):
            console.warning(warning)
    hosted = recipe.model.name in recipe.upstreams
    with console.part("model"):
        path = recipe.model.path if weights is None else str(weights)
        model = None if hosted else folders.resolve(path, console.phase)
    if model is not None:
        folders.require_whole(model, recipe.model)
        adapters.require_alike(recipe)
        if learn:
            folders.require_trainable(model, recipe.model)
            with console.part("teachers"):
                require_teachers(recipe, model)
    with nodes(console) as found:
        placed = None if model is None else PlacedModel(model, plan(recipe, found))
        if placed is not None and learn:
            folders.require_adaptable(placed.folder, recipe.model, placed.plan.device)
        folder = choice.open(recipe)
        folder.require_tasks(digest([*tasks.train, *tasks.held_out] if learn else tasks.held_out))
        yield Prepared(recipe, folder, tasks, placed)


@contextmanager
def nodes(console: Console) -> Iterator[Sequence[NodeShape]]:
    """Those that a run would use: of the cluster that ``RAY_ADDRESS`` names, connected inside; without one,
    this machine, where nothing is started yet."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        yield this_machine()
        return
    with ExitStack() as stack:
        with console.part("connection to the cluster"):
            from al_ray.machines import cluster
            from al_ray.machines.placement import cluster_shape

            stack.enter_context(cluster.joined(address))
        yield cluster_shape()


def services(recipe: Recipe) -> Mapping[str, Service]:
    """The recipe's services by name, made but not started. Raises ``UserError`` where one cannot be made."""
    made = {}
    for name, section in recipe.services.items():
        where = f"services.{name}.run"
        make = dotted.load(section.run, where)
        with _users_own(where, section.run, "cannot be made"):
            made[name] = make(recipe.data.path, **section.options)
    return made


def check_services(recipe: Recipe) -> None:
    """Raises ``UserError`` with what keeps any of them from its start."""
    problems: list[Problem] = []
    for name, service in services(recipe).items():
        where, run = f"services.{name}.run", recipe.services[name].run
        try:
            if lacking := [method for method in _OF_SERVICES if not callable(getattr(service, method, None))]:
                cure = f"is no Service (al_ray.protocols): it has no {', '.join(lacking)}"
                raise UserError(Problem(where, run, cure))
            with _users_own(where, run, "failed in check"):
                service.check()
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)


@contextmanager
def _users_own(where: str, path: str, what: str) -> Iterator[None]:
    """Inside, code of the user's is called: whatever it raises is told with its place."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(Problem(where, path, f"{what}: {in_a_line(error)}")) from error
