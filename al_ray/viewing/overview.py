"""What there is to say of a run as a whole: how far it is, what its parts do, how it learns, whether it is
well."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from al_ray.errors import UserError
from al_ray.evaluation.report import FILE_NAME
from al_ray.recipe.schedule import evaluation_name
from al_ray.reports.health import RULES
from al_ray.reports.names import METRICS, TIMES, Metric
from al_ray.rollouts.requests import evaluation_batch
from al_ray.types import RolloutStatus, Worker
from al_ray.viewing.charts import COLOURS, Chart, chart, series, stacked
from al_ray.viewing.index import Entry
from al_ray.viewing.runs import ViewedRun

_CHOSEN: Final = (
    "reward/mean",
    "eval/accuracy",
    "optim/loss",
    "policy/entropy",
    "policy/kl",
    "rollout/response_tokens",
    "rollout/calls",
    "off_policy/mismatch_kl",
    "perf/generated_tokens_per_s",
)
"""Metrics that are drawn where nobody asks for all."""
_BANDS: Final = {"reward/mean": "reward/std", "eval/accuracy": "eval/stderr"}
_STEP: Final = "time/step"
"""A key of the lines that a step ends with."""
_EVALUATED: Final = "evaluated"
"""The state of an evaluation that ended."""
_PHASES: Final = [metric.key for metric in TIMES if metric.key != _STEP]
_IS_METRIC: Final[Mapping[str, Metric]] = {metric.key: metric for metric in METRICS}


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a line of a list."""

    name: str
    title: str
    error: str = ""
    """Why nothing can be said of it, if so."""
    algorithms: str = ""
    state: str = ""
    step: int = 0
    steps: int = 0
    reward: float | None = None
    accuracy: float | None = None
    stderr: float | None = None
    failed: int = 0
    """Rollouts without a score in the last evaluation."""
    logged_at: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Of the held-out tasks."""

    name: str
    step: int
    batch: str
    accuracy: float | None
    """None: nothing had a score."""
    stderr: float | None
    tasks: int
    failed: int
    others: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class HealthRow:
    """A number that is not to pass a limit."""

    key: str
    last: float
    limit: float
    passed: int
    """In how many steps it was beyond."""
    steps: int
    told: str
    """What that means and what to do, where it is beyond now."""
    chart: Chart | None


@dataclass(frozen=True, slots=True)
class Overview:
    """All of a run's page."""

    row: RunRow
    doing: Sequence[str]
    charts: Sequence[Chart]
    times: Chart | None
    evaluations: Sequence[Evaluation]
    health: Sequence[HealthRow]
    workers: Sequence[Worker]
    under_way: Sequence[Entry]
    places: Sequence[tuple[str, str]]
    count: int
    """Rollouts in its store."""


def run_row(run: ViewedRun) -> RunRow:
    """Of a run whose files may be in any state."""
    try:
        recipe, lines = run.recipe, run.metrics()
    except UserError as error:
        return RunRow(run.name, run.title, error=str(error))
    step = _done(lines)
    evaluated = [line for line in lines if "eval/accuracy" in line]  # null where nothing had a score
    last = evaluated[-1] if evaluated else {}
    rewards = [line["reward/mean"] for line in lines if line.get("reward/mean") is not None]
    return RunRow(
        name=run.name,
        title=run.title,
        algorithms=", ".join(dict.fromkeys(stage.algorithm for stage in recipe.stages)),
        state=_state(run),
        step=step,
        steps=run.steps,
        reward=rewards[-1] if rewards else None,
        accuracy=last.get("eval/accuracy"),
        stderr=last.get("eval/stderr"),
        failed=int(last.get("eval/failed") or 0),
        logged_at=lines[-1].get("time") if lines else None,
    )


def overview(run: ViewedRun, *, everything: bool) -> Overview:
    """``everything`` draws each metric that was logged. Raises ``UserError`` where recipe or store cannot be
    read."""
    index = run.index
    index.refresh()
    lines = run.metrics()
    row = run_row(run)
    return Overview(
        row=row,
        doing=list(_doing(run, row.state)),
        charts=charts_of([run], everything=everything),
        times=stacked("Time of a step", "s", _times(lines)),
        evaluations=list(_evaluations(run)),
        health=list(_health(run)),
        workers=index.listing.workers(),
        under_way=index.under_way(),
        places=list(_places(run)),
        count=len(index),
    )


def charts_of(runs: Sequence[ViewedRun], *, everything: bool = False) -> Sequence[Chart]:
    """Each metric of all of them in one chart; a run has a colour of its own."""
    end = max((run.steps for run in runs), default=1)
    drawn = []
    for key in _keys(runs) if everything else _CHOSEN:
        metric = _IS_METRIC.get(key)
        meaning = "" if metric is None or everything else metric.meaning
        of_runs = [
            series(
                run.metrics(),
                key,
                run.title,
                colour % COLOURS,
                error=_BANDS.get(key, ""),
                dots=key.startswith("eval/"),
            )
            for colour, run in enumerate(runs)
        ]
        made = chart(
            f"{key}: {meaning}" if meaning else key, metric.unit if metric else "", of_runs, x_end=end
        )
        if made is not None:
            drawn.append(made)
    return drawn


def _keys(runs: Sequence[ViewedRun]) -> Sequence[str]:
    """All that were logged, those of the table of metrics in its order."""
    logged = {key for run in runs for line in run.metrics() for key in line} - {"step", "time"}
    known = [key for key in _IS_METRIC if key in logged]
    return [*known, *sorted(logged - set(known))]


def _done(lines: Sequence[Mapping[str, Any]]) -> int:
    """Steps."""
    return max((int(line["step"]) for line in lines if _STEP in line), default=0)


def _state(run: ViewedRun) -> str:
    match run.is_under_way():
        case True:
            return "running"
        case False if (run.folder.path / FILE_NAME).is_file():  # `al-ray eval`, which asks for no step
            return _EVALUATED
        case False:
            # Its last step is followed by an evaluation, whatever that finds.
            last = any("eval/accuracy" in line and line["step"] >= run.steps for line in run.metrics())
            return "ended" if last else "stopped"
    return ""


def _doing(run: ViewedRun, state: str) -> Iterator[str]:
    """What is under way, as far as the run's files tell."""
    index, lines = run.index, run.metrics()
    done, newest = _done(lines), index.newest()
    if lines and "time" in lines[-1]:
        logged = ago(lines[-1]["time"])
        steps = "" if state == _EVALUATED else f"{done} of {run.steps} steps are done; "
        yield f"{steps}the last line of metrics is {logged} old"
    if newest is None:
        yield "no rollout has been asked for yet"
        return
    batch = newest.brief.batch
    counts = index.counts(batch)
    ended = sum(count for status, count in counts.items() if status.ended)
    total = counts.total()
    waiting = ", ".join(f"{counts[status]} {status}" for status in _WAITING if counts[status])
    yield f"batch {batch}: {ended} of {total} rollouts have ended" + (f", {waiting}" if waiting else "")
    if ended == total and run.is_under_way():
        yield "all of them have ended: what follows (an update, a checkpoint or new weights) is under way"


_WAITING: Final = [status for status in RolloutStatus if not status.ended]


def ago(moment: float) -> str:
    """How long it is since then."""
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _times(lines: Sequence[Mapping[str, Any]]) -> Sequence[tuple[int, Mapping[str, float]]]:
    """The phases of each step, with the checkpoint and the evaluation after it."""
    steps: dict[int, dict[str, float]] = {}
    for line in lines:
        phases = {key.partition("/")[2]: line[key] for key in _PHASES if line.get(key) is not None}
        if phases:
            steps.setdefault(int(line["step"]), {}).update(phases)
    met = {name for phases in steps.values() for name in phases}
    names = [name for key in _PHASES if (name := key.partition("/")[2]) in met]
    return [(step, {name: phases.get(name, 0.0) for name in names}) for step, phases in sorted(steps.items())]


def _evaluations(run: ViewedRun) -> Iterator[Evaluation]:
    last = {int(line["step"]): line for line in run.metrics() if "eval/accuracy" in line}
    own = {"eval/accuracy", "eval/stderr", "eval/tasks", "eval/failed"}
    for step, line in sorted(last.items()):
        yield Evaluation(
            name=evaluation_name(run.recipe, step),
            step=step,
            batch=evaluation_batch(step),
            accuracy=line["eval/accuracy"],
            stderr=line.get("eval/stderr"),
            tasks=int(line.get("eval/tasks") or 0),
            failed=int(line.get("eval/failed") or 0),
            others={
                k.partition("/")[2]: v for k, v in line.items() if k.startswith("eval/") and k not in own
            },
        )


def _health(run: ViewedRun) -> Iterator[HealthRow]:
    limits = run.recipe.health
    for rule in RULES:
        lines = [line for line in run.metrics() if line.get(rule.key) is not None and _STEP in line]
        if not lines:
            continue
        limit = getattr(limits, rule.limit)
        last = lines[-1]
        drawn = series(lines, rule.key, rule.key, 0)
        yield HealthRow(
            key=rule.key,
            last=last[rule.key],
            limit=limit,
            passed=sum(line[rule.key] > limit for line in lines),
            steps=len(lines),
            told=rule.told(last, limits) if last[rule.key] > limit else "",
            chart=chart(rule.key, "", [drawn], x_end=run.steps, limit=limit),
        )


def _places(run: ViewedRun) -> Iterator[tuple[str, str]]:
    """Who is where: as the run noted at its start, else as its recipe asks."""
    placed = run.folder.placement()
    recipe = run.recipe
    if placed is None:
        engines, learners = recipe.engines.replicas, recipe.learners.replicas
        device, layout = recipe.placement.device, recipe.placement.layout
        yield "asked for", f"{engines} engines and {learners} learners, {layout} on {device}"
    else:
        yield "layout", f"{placed['layout']} on {placed['device']}"
        for bundle in placed["bundles"]:
            gpus = f", {bundle['gpus']} GPU" if bundle["gpus"] else ""
            yield " + ".join(bundle["tenants"]), f"node {bundle['node']}: {bundle['cpus']} cores{gpus}"
        if more := placed.get("more"):
            yield "as there is room", f"{len(more)} engines more"
    yield "beside the driver", f"store, {recipe.gateway.replicas} gateways, {recipe.agent.runners} runners"
    if recipe.agent.more_runners:
        yield "where there is room", f"{recipe.agent.more_runners} runners more"
    for name in recipe.services:
        yield "service", name
