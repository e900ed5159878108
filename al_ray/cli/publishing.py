"""``al-ray serve`` and ``al-ray export`` of a checkpoint: a model for others."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from al_ray.errors import Problem, UserError
from al_ray.models import adapters, folders
from al_ray.reports.console import Console
from al_ray.run.ended import model_folder
from al_ray.run.ended.push import pushed
from al_ray.run.ended.serving import server
from al_ray.run.folder import RunFolder, recipe_of


def serve(checkpoint: Path, host: str, port: int, *, dry_run: bool) -> None:
    """Become vLLM's server, or print the line that would."""
    recipe = _recipe_folder(checkpoint).recipe()
    started = server(_model(checkpoint), recipe, host, port)
    if dry_run:
        print(started.line)
        return
    os.execve(started.command[0], list(started.command), {**os.environ, **started.variables})


def export(checkpoint: Path, output: Path, push: str | None, **of_records: object) -> str:
    """Write the model, and give it to a hub if a name there is given; says what was written. ``of_records``
    are options that only a run's records have."""
    for name, value in of_records.items():
        if value is not None:
            told = "is for the records of a run; of a checkpoint, the model is exported"
            raise UserError(Problem(f"--{name}", str(value), told))
    recipe, checkpoint = _recipe_folder(checkpoint).recipe(), checkpoint.resolve()
    model_folder.write(checkpoint, _model(checkpoint), recipe, output)
    told = f"{output}: the model after {checkpoint.name}, with a model card"
    return told if push is None else f"{told}\n{pushed(output, push)}"


def _model(checkpoint: Path) -> Path:
    """Of an adapter, what it is merged to."""
    console = Console(sys.stderr)  # the line to serve it is for whoever reads the output
    try:
        with console.part("model"):
            return folders.resolve(str(checkpoint), console.phase)
    finally:
        console.close()


def _recipe_folder(checkpoint: Path) -> RunFolder:
    """Raises ``UserError`` where there is no one model."""
    folder = RunFolder.open(recipe_of(checkpoint).parent)
    recipe = folder.recipe()
    if recipe.policies:
        modules = " ".join(
            f"{name}={adapters.place_of(checkpoint, name)}" for name in recipe.trained_policies
        )
        cure = "holds adapters of several policies, which peft loads, and vLLM: vllm serve "
        cure += f"{recipe.model.path} --enable-lora --lora-modules {modules}"
        raise UserError(Problem("checkpoint", str(checkpoint), cure))
    return folder
