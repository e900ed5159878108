"""Runs looked at, some also while they are under way: ``al-ray runs``, ``compare``, ``rollouts``, ``view``,
``audit``, ``replay`` and ``measure``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from al_ray.cli.arguments.listing import Filters, Pages
from al_ray.cli.arguments.shared import (
    NewestArgument,
    RunArgument,
    SetOption,
)
from al_ray.cli.arguments.spread import spread
from al_ray.errors import Problem, UserError


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where runs lie.")] = Path("outputs"),
) -> None:
    """List the runs in a folder: steps, first and last accuracy, failures, size."""
    from al_ray.cli import comparing

    comparing.list_runs(folder)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run: its last evaluation. Or a checkpoint.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    task: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Where this task parts; that which moved most if not given."),
    ] = None,
) -> None:
    """Compare two evaluations of the same tasks: the difference with its interval, the tasks that flipped,
    and the first call that differs, side by side."""
    from al_ray.cli import comparing

    comparing.compare(first, second, task)


_ALL, _NEWEST = Filters(), Pages()


@spread
def list_or_show(
    run: NewestArgument,
    rollout: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show this one.")] = None,
    filters: Filters = _ALL,
    pages: Pages = _NEWEST,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Tell of those that end from now on, until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, a line each.")] = False,
) -> None:
    """List the rollouts of a run, or show one: each call, tool result and reward."""
    from al_ray.cli import rollouts

    if rollout is not None:
        rollouts.show_rollout(run, rollout, as_json=as_json)
        return
    if follow and pages != _NEWEST:
        cure = "tells of rollouts as they end; --sort, --reverse, --limit and --page are for a list"
        raise UserError(Problem("--follow", str(run), cure))
    order = rollouts.order(pages.sort)
    search = rollouts.search(run, filters)
    if follow:
        rollouts.follow(run, search, as_json=as_json)
        return
    rollouts.list_rollouts(run, search, order, pages, as_json=as_json)


def view(
    root: Annotated[
        Path, typer.Argument(metavar="[RUN|FOLDER]", help="A run's folder, or one that holds several.")
    ] = Path("outputs"),
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8267,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Let anybody read who reaches the address.")
    ] = False,
) -> None:
    """Show runs as a web page: curves, rollouts, tokens; while they train, too."""
    from al_ray.viewing.server import serve

    def tell(address: str) -> None:
        typer.echo(f"{address}\nCtrl-C ends it; nothing of the runs is changed.")

    try:
        asyncio.run(serve(root, host, port, with_token=not no_token, tell=tell))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def audit(run: RunArgument) -> None:
    """Account for every token that a run has sampled: trained once, context only, or dropped for a reason."""
    from al_ray.cli.auditing import audit

    raise typer.Exit(0 if audit(run) else 1)


def replay(
    run: RunArgument,
    step: Annotated[int, typer.Argument(metavar="STEP", help="As it is logged: the first is 1.")],
    rollout: Annotated[str | None, typer.Argument(metavar="[ROLLOUT]", help="Show its calls.")] = None,
    overrides: SetOption = None,
) -> None:
    """Compute a recorded step once more, to the last bit; with --set, where another recipe would differ."""
    from al_ray.cli.replaying import replay

    raise typer.Exit(0 if replay(run, step, rollout, overrides or []) else 1)


def measure(
    run: RunArgument,
    step: Annotated[
        int | None,
        typer.Option(min=1, help="Its rollouts; of the newest whose weights are kept if not given."),
    ] = None,
    rollout: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this one; repeatable, of one step.")
    ] = None,
    rollouts: Annotated[int, typer.Option(min=1, help="How many of the step's, group by group.")] = 8,
    samples: Annotated[int, typer.Option(min=2, help="How often to play on from each state.")] = 8,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Other weights than those that sampled them.")
    ] = None,
    overrides: SetOption = None,
    name: Annotated[
        str | None, typer.Option("--run", help="Name of the measurement's folder; the time if not given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --run, or with the newest measurement.")
    ] = False,
) -> None:
    """Measure what calls of a run's rollouts were worth, by playing on from them, beside what credits say."""
    from al_ray.cli import interruptible, measuring
    from al_ray.recipe import loading
    from al_ray.run.folder import RunChoice, RunFolder
    from al_ray.run.recorded.measure import Wanted

    loaded = loading.load_changed(RunFolder.open(run).recipe_file, overrides or [])
    wanted = Wanted(step, rollout or (), rollouts, checkpoint)
    done = interruptible.run(measuring.measure(run, loaded, wanted, samples, RunChoice(name, resume)))
    raise typer.Exit(0 if done else 1)
