"""The command line: ``al-ray VERB``. Here are the verbs, and how each ends.

Exit codes: 0 done, 1 the system failed, or a run taught nothing, 2 the user's mistake (said in one
message, no traceback), 130 after Ctrl-C, once everything is stopped.
"""

from __future__ import annotations

import sys

import typer

from al_ray.cli.arguments import giving, looking, preparing, running

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Reinforcement learning for the language model inside any agent.",
)

data = typer.Typer(no_args_is_help=True, help="Look after datasets.")
app.add_typer(data, name="data")

app.command()(running.train)
app.command()(running.submit)
app.command()(preparing.validate)
app.command(name="eval")(running.evaluate)
app.command(name="try")(running.try_one)
app.command()(looking.runs)
app.command()(looking.compare)
app.command(name="rollouts")(looking.list_or_show)
app.command()(giving.serve)
app.command()(looking.view)
app.command()(giving.export)
app.command()(looking.audit)
app.command()(looking.replay)
app.command()(looking.measure)
app.command()(preparing.model)
data.command(name="check")(preparing.check_data)
app.command()(preparing.index)
app.command()(preparing.init)
app.command()(preparing.doctor)


def main() -> None:
    """The console script."""
    from al_ray.errors import (
        CheckpointError,
        DiskError,
        EngineUnavailableError,
        LearnerLostError,
        ServiceUnavailableError,
        StoreError,
        UnresponsiveError,
        UselessRunError,
        UserError,
        visible,
    )

    sys.path.insert(0, "")  # an agent beside the recipe is importable, as with ``python -m``
    try:
        app()
    except UserError as error:
        for problem in error.problems:
            typer.echo(visible(f"error: {problem}"), err=True)
        sys.exit(2)
    except UselessRunError as error:
        typer.echo(visible(f"error: {error}"), err=True)
        sys.exit(1)
    except (
        CheckpointError,
        DiskError,
        EngineUnavailableError,
        LearnerLostError,
        ServiceUnavailableError,
        StoreError,
        UnresponsiveError,
    ) as error:
        told = f"error: {error}\nwhat is recorded stays: --resume goes on from there"
        typer.echo(visible(told), err=True)
        sys.exit(1)
