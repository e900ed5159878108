"""What must hold of a recipe's agent: its program or function, what it is given, its sandbox, and the
functions around it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from al_ray.errors import Problem
from al_ray.recipe import AgentSection, Recipe, dotted
from al_ray.recipe.checks.functions import callable_with, is_async


def agent(recipe: Recipe) -> Iterator[Problem]:
    agent = recipe.agent
    for index, name in enumerate(agent.environment):
        if name not in os.environ:
            cure = "this variable is not set; set it, or do not name it"
            yield Problem(f"agent.environment.{index}", name, cure)
    yield from (_command if agent.isolation == "command" else _python_agent)(agent)
    yield from _sandbox(recipe)
    if agent.evaluate is not None:
        yield from callable_with("agent.evaluate", agent.evaluate, ("task", "output"))
        if agent.reward is not None:
            yield Problem("agent.reward", agent.reward, "leave it out: agent.evaluate gives the reward")
    if agent.judge is not None:
        yield from callable_with("agent.judge", agent.judge, ("task", "candidates", "llm"))
    for where, hook in (("agent.before", agent.before), ("agent.after", agent.after)):
        if hook is not None:
            yield from callable_with(where, hook, ("request", "attempt"))


def _command(agent: AgentSection) -> Iterator[Problem]:
    for key in ("run", "python", "requirements"):
        if getattr(agent, key) is not None:
            yield Problem(f"agent.{key}", getattr(agent, key), "is not for isolation: command")
    if agent.command is None:
        yield Problem("agent.command", None, "give the program and its arguments, as a list")
        return
    folder = Path(agent.folder or ".")
    if not folder.is_dir():
        yield Problem("agent.folder", agent.folder, "no such folder; it is looked for beside the recipe")
    program = agent.command[0]
    if agent.sandbox is None and shutil.which(folder / program if "/" in program else program) is None:
        cure = "no such program is on PATH; one of your own is given as ./NAME, relative to agent.folder"
        if "/" in program and (folder / program).is_file():
            cure = "may not be executed: chmod +x, or give what runs it first, as in [bash, ./NAME]"
        yield Problem("agent.command.0", program, cure)


def _sandbox(recipe: Recipe) -> Iterator[Problem]:
    agent = recipe.agent
    if agent.sandbox is None:
        return
    if agent.isolation != "command":
        cure = f"is only for isolation: command, not for {agent.isolation}"
        yield Problem("agent.sandbox", agent.sandbox.wall, cure)
    output = Path(recipe.output).resolve()
    seen = {"agent.folder": agent.folder or "."}
    seen |= {f"agent.sandbox.mounts.{place}": here for place, here in agent.sandbox.mounts.items()}
    for where, here in seen.items():
        if not Path(here).exists():
            yield Problem(where, here, "no such file or folder; it is looked for beside the recipe")
        elif output.is_relative_to(Path(here).resolve()):
            cure = f"the agent would see the runs in {output}; give it a folder without them, or set `output`"
            yield Problem(where, here, cure)


def _python_agent(agent: AgentSection) -> Iterator[Problem]:
    cure = f"is only for isolation: command, not for {agent.isolation}"
    if agent.command is not None:
        yield Problem("agent.command", agent.command, cure)
    if agent.task != "stdin":
        yield Problem("agent.task", agent.task, cure)
    if agent.run is None:
        yield Problem("agent.run", None, "name the agent, or give isolation: command and a command")
        return
    if agent.python is not None and shutil.which(agent.python) is None:
        yield Problem("agent.python", agent.python, "no such program; it is looked for beside the recipe")
    if isinstance(agent.requirements, str) and not Path(agent.requirements).is_file():
        cure = "no such file; it is looked for beside the recipe"
        yield Problem("agent.requirements", agent.requirements, cure)
    if agent.isolation == "process":  # it is imported in one, before a run
        return
    for key in ("python", "requirements"):
        if getattr(agent, key) is not None:
            yield Problem(f"agent.{key}", getattr(agent, key), "is only for isolation: process")
    unfit = list(callable_with("agent.run", agent.run, ("task", "llm")))
    yield from unfit
    asynchronous = agent.isolation == "async"
    if not unfit and is_async(dotted.load(agent.run, "agent.run")) is not asynchronous:
        plain = "is a plain function: set agent.isolation to thread or process, or make it async def"
        cure = plain if asynchronous else "is async: set agent.isolation to async or process"
        yield Problem("agent.run", agent.run, cure)
