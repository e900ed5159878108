"""``al-ray train``, ``submit``, ``eval`` and ``try``: agents are run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from al_ray.cli.arguments.shared import (
    KeyOption,
    ModelOption,
    RecipeArgument,
    ResumeOption,
    RunOption,
    SeedOption,
    SetOption,
    UrlOption,
    load,
)


def train(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    seed: SeedOption = None,
    run: RunOption = None,
    resume: ResumeOption = False,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="Train so often, from --seed on, and report the mean.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and the placement; start nothing.")
    ] = False,
) -> None:
    """Train the model inside the recipe's agent."""
    from al_ray.cli import interruptible, preparing, training
    from al_ray.run.folder import RunChoice

    loaded = load(recipe, overrides, seed)
    if dry_run:
        preparing.dry_run(loaded)
    elif seeds is None:
        interruptible.run(training.train(loaded, RunChoice(run, resume)))
    else:
        training.train_seeds(loaded, seeds, RunChoice(run, resume))


def submit(
    recipe: RecipeArgument,
    address: Annotated[
        str,
        typer.Option(
            metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="Of Ray's dashboard, http://HEAD:8265."
        ),
    ],
    overrides: SetOption = None,
    seed: SeedOption = None,
    run: RunOption = None,
    resume: ResumeOption = False,
    folder: Annotated[
        Path,
        typer.Option(
            "--working-dir", exists=True, file_okay=False, help="What is uploaded, and where the job runs."
        ),
    ] = Path("."),
    follow: Annotated[bool, typer.Option(help="Show what the job writes, and end as it does.")] = True,
) -> None:
    """Train on a Ray cluster, as a job of it: say what is uploaded, follow it, and end as it does."""
    from al_ray.cli import submitting
    from al_ray.recipe import loading

    options = [
        *(word for each in overrides or () for word in ("--set", each)),
        *(() if seed is None else ("--seed", str(seed))),
        *(() if run is None else ("--run", run)),
        *(("--resume",) if resume else ()),
    ]
    loaded = loading.reload(recipe, overrides or ())  # model, data and agent are the cluster's
    raise typer.Exit(submitting.submit(recipe, loaded, options, address, folder, follow=follow))


def evaluate(
    target: Annotated[Path, typer.Argument(metavar="RECIPE|CHECKPOINT", help="What to evaluate.")],
    overrides: SetOption = None,
    seed: SeedOption = None,
    samples: Annotated[int | None, typer.Option(help="Rollouts of each task, for pass@k.")] = None,
    url: UrlOption = None,
    model: ModelOption = None,
    api_key_env: KeyOption = None,
    run: RunOption = None,
    resume: ResumeOption = False,
) -> None:
    """Evaluate a recipe's untrained model, a checkpoint of a run, or a served model on held-out tasks."""
    from al_ray.cli import evaluating, interruptible
    from al_ray.evaluation.subject import served, subject
    from al_ray.run.folder import RunChoice, recipe_at

    elsewhere = served(url, model, api_key_env)
    asked = [*(overrides or []), *([] if samples is None else [f"evaluation.samples={samples}"])]
    loaded = load(recipe_at(target), asked, seed)
    evaluated = subject(target, loaded, elsewhere)
    scored = interruptible.run(evaluating.evaluate(evaluated, RunChoice(run, resume)))
    raise typer.Exit(0 if scored else 1)


def try_one(
    target: Annotated[Path, typer.Argument(metavar="RECIPE|CHECKPOINT", help="Whose agent and model.")],
    task: Annotated[
        str | None, typer.Option(metavar="ID", help="Of the tasks; the first held-out one if not given.")
    ] = None,
    overrides: SetOption = None,
    url: UrlOption = None,
    model: ModelOption = None,
    api_key_env: KeyOption = None,
) -> None:
    """Run the agent on one task, here and now, and show all that happens; breakpoint() works."""
    from al_ray.cli import trying
    from al_ray.evaluation.subject import served, subject
    from al_ray.run.folder import recipe_at

    elsewhere = served(url, model, api_key_env)
    loaded = load(recipe_at(target), overrides, None)
    raise typer.Exit(0 if trying.try_task(subject(target, loaded, elsewhere), task) else 1)
