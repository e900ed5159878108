"""``al-ray serve`` and ``export``: models and records for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from al_ray.cli.arguments.listing import Filters
from al_ray.cli.arguments.shared import (
    BatchOption,
    ModeOption,
)


def serve(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="RUN/checkpoints/step-...")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 8000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the line that starts it.")] = False,
) -> None:
    """Serve a checkpoint by OpenAI's API as the run served it: the same template, parsers and sampling."""
    from al_ray.cli import publishing

    publishing.serve(checkpoint, host, port, dry_run=dry_run)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="Its records, or its model.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|FOLDER",
            help="A file is replaced if it exists; a model's folder is not.",
        ),
    ],
    what: Annotated[
        str | None,
        typer.Option(
            help="rollouts (the default), spans, transitions, conversations, preferences or episodes."
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="jsonl or parquet; what the suffix of FILE names if not given.")
    ] = None,
    batch: BatchOption = None,
    mode: ModeOption = None,
    min_reward: Annotated[float | None, typer.Option(help="Only rollouts with at least this reward.")] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Give a checkpoint's model to the Hugging Face hub, too."),
    ] = None,
) -> None:
    """Write what a run has recorded to a file that Hugging Face datasets reads, or a checkpoint's model to a
    folder that transformers and vLLM load, with a model card."""
    from al_ray.cli import publishing, rollouts
    from al_ray.run.folder import is_checkpoint

    if is_checkpoint(run):
        given = {"what": what, "format": format, "batch": batch, "mode": mode, "min-reward": min_reward}
        typer.echo(publishing.export(run, output, push, **given))
        return
    if push is not None:
        from al_ray.errors import Problem, UserError

        raise UserError(Problem("--push", push, "is for a checkpoint's model; this is a run"))
    search = rollouts.search(run, Filters(batch=batch, mode=mode, min_reward=min_reward))
    typer.echo(rollouts.export(run, search, what or "rollouts", format, output))
