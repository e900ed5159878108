"""``al-ray try``: one task by hand, and all that happened."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rich.text import Text

from al_ray.actors.agent import environment, interpreter
from al_ray.actors.agent.inherited import shed
from al_ray.actors.agent.walls import wall
from al_ray.data.tasks import load_tasks
from al_ray.database.backends import sqlite_url
from al_ray.errors import AgentExitError, RewardError, ToldError, UserError, is_library, visible
from al_ray.recipe import Recipe
from al_ray.reports.console import Console, terminal
from al_ray.reports.health import ASK_THE_ENDPOINT
from al_ray.rollouts.agent_error import folded
from al_ray.rollouts.outcome import outcome_of
from al_ray.rollouts.reading.terminal import show
from al_ray.types import AttemptStatus

_KEPT = ("PYTHONBREAKPOINT",)
"""Beside what agents find in a run: the user's debugger."""


def try_task(recipe: Recipe, task: str | None) -> bool:
    """``recipe`` is what ``evaluation.subject`` makes. Whether the attempt succeeded."""
    console = Console(os.fdopen(os.dup(sys.stdout.fileno()), "w"))
    try:
        return _tried(recipe, task, console)
    except UserError as error:
        # The user's own module, say, which could not be imported: its traceback is what is looked for.
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise
    finally:
        console.close()


def _tried(recipe: Recipe, name: str | None, console: Console) -> bool:
    with console.part("tasks"):
        tasks = load_tasks(recipe)
        environment.check_tasks(recipe.agent, [*tasks.held_out, *tasks.train])
        interpreter.check(recipe.agent, recipe.model.name, recipe.services)
        if recipe.agent.sandbox is not None and (warning := wall.try_out(recipe.agent)):
            console.warning(warning)
    with console.part("libraries"):
        from al_ray.database.writer import Database
        from al_ray.run.launch.preparation import check_services
        from al_ray.run.launch.specs import runner_spec
        from al_ray.run.trial.agent import is_here
        from al_ray.run.trial.attempt import attempted, chosen
        from al_ray.run.trial.house import opened

    task = chosen(tasks, name)
    check_services(recipe)
    with tempfile.TemporaryDirectory(prefix="al_ray_try_") as folder:
        store = Path(folder) / "store.sqlite"
        with closing(Database(sqlite_url(store))) as database, opened(recipe, store, console) as house:
            given = dict(runner_spec(recipe, [house.base_url], house.services).environment)
            given |= {name: os.environ[name] for name in _KEPT if name in os.environ}
            shed(recipe.agent, given, [house.base_url, *house.services.values()])
            elsewhere = (
                "" if is_here(recipe.agent) else "; the agent is a process of its own, for no debugger"
            )
            console.note(f"task {task.id} of {task.split}{elsewhere}")
            console.close()  # the terminal is the agent's
            tried = attempted(recipe, task, database, house)
    attempts = [replace(attempt, error=None) for attempt in tried.rollout.attempts]  # told whole, below
    terminal().print(show(replace(tried.rollout, attempts=attempts), recipe.transitions.reward))
    [ended] = tried.rollout.attempts
    if tried.raised is not None:
        terminal().print(Text(visible(f"\n{_traceback(tried.raised)}"), "red"))
    elif ended.error is not None:
        terminal().print(Text(visible(f"\n{folded(ended.error)}"), "red"))
    succeeded = ended.status is AttemptStatus.SUCCEEDED
    if succeeded and not outcome_of(tried.rollout, recipe.model.name).called:
        console.warning(f"the model answered no call, so a run learns nothing of this: {ASK_THE_ENDPOINT}")
    if tried.seconds > recipe.agent.timeout:
        console.warning(
            f"it took {tried.seconds:.0f} s: a run ends an attempt after {recipe.agent.timeout:g} s "
            "(agent.timeout)"
        )
    return succeeded


def _traceback(error: BaseException) -> str:
    """Whole, from the first frame that is the agent's."""
    # No code's fault, that of a program elsewhere, or one that brings its own.
    if isinstance(error, RewardError | AgentExitError | ToldError):
        return str(error)
    begin = error.__traceback__
    while begin is not None and _is_around_the_agent(begin.tb_frame.f_code.co_filename):
        begin = begin.tb_next
    return "".join(traceback.format_exception(error.with_traceback(begin or error.__traceback__)))


def _is_around_the_agent(file: str) -> bool:
    rooms = [Path(__file__).parent.parent / room for room in ("cli", "run", "actors")]
    return is_library(file) or any(Path(file).is_relative_to(room) for room in rooms)
