"""``al-ray submit``: a training as a job of a Ray cluster."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from al_ray.cli import interruptible
from al_ray.errors import Problem, UserError
from al_ray.machines.jobs import LEAVE_SECONDS, Jobs, Upload, exit_code, upload_of
from al_ray.recipe import Recipe
from al_ray.reports.console import Console
from al_ray.run.folder import require_lasting


def submit(
    path: Path, recipe: Recipe, options: Sequence[str], address: str, folder: Path, *, follow: bool
) -> int:
    """Train the recipe at ``path``, in ``folder``, with ``options`` of ``al-ray train``, on the cluster at
    ``address``; returns the exit code. What is wrong here is said before anything is sent."""
    console = Console()
    require_lasting(recipe.output, of_a_job=True)
    upload = upload_of(folder)
    command = ["python", "-m", "al_ray", "train", _within(path, folder, upload), *options]
    console.note(f"upload      {upload}")
    for secret in upload.secrets:
        told = f"{secret} is uploaded, and whoever may speak to Ray can read it: name it in .rayignore"
        console.warning(told)
    jobs = Jobs(address)
    job = jobs.submit(command, folder)
    console.header(
        [
            f"job         {job}: {shlex.join(command)}",
            f"results     {recipe.output}/{recipe.name}, on the cluster",
            f"to stop     {jobs.line('stop', job)}  (it has {LEAVE_SECONDS} s to write a checkpoint)",
            f"to follow   {jobs.line('logs --follow', job)}",
        ]
    )
    if not follow:
        return 0
    try:
        interruptible.run(_followed(jobs, job))
    except KeyboardInterrupt:
        console.note(f"job {job} goes on")
        raise
    ended = jobs.details(job)
    console.note(f"job {job}: {ended.status.value.lower()}{f', {ended.message}' if ended.message else ''}")
    return exit_code(ended)


def _within(path: Path, folder: Path, upload: Upload) -> str:
    """The recipe's place in what is uploaded."""
    try:
        inside = path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        cure = "is not within it: give a folder that holds the recipe, and what it needs"
        raise UserError(Problem("--working-dir", str(folder), f"{path} {cure}")) from None
    if inside not in upload.files:
        raise UserError(Problem("RECIPE", str(path), "is not uploaded: a .gitignore or .rayignore names it"))
    return inside


async def _followed(jobs: Jobs, job: str) -> None:
    async for written in jobs.follow(job):
        sys.stdout.write(written)
        sys.stdout.flush()
