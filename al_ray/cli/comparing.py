"""``al-ray runs``, a line each, and ``al-ray compare``: two evaluations of the same tasks, and where they
part."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Group as Lines
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from al_ray.database.query import Condition, Query
from al_ray.errors import Problem, UserError
from al_ray.evaluation.comparison import Comparison, Pair, TaskScores, compared, task_scores
from al_ray.evaluation.estimates import Estimate
from al_ray.recipe import loading
from al_ray.reports.console import terminal
from al_ray.rollouts.reading.diverging import Parting, parting
from al_ray.rollouts.reading.search import READ, every
from al_ray.rollouts.reading.terminal import told_lines
from al_ray.run.ended.evaluated import Evaluated, evaluated
from al_ray.run.ended.listing import listing
from al_ray.run.folder import looking_at
from al_ray.types import Rollout, SpanKind

_SHOWN = 10
"""Tasks that moved."""
_WIDTH = 160
"""Characters of two calls side by side, at most."""
_PARTED = {
    "asked": "the model was shown something else",
    "answered": "the model was shown the same, and answered something else",
    "missing": "only one of them made it",
}


def list_runs(folder: Path) -> None:
    """A table of the runs at or below ``folder``."""
    with looking_at(folder):
        there = folder.is_dir()
    if not there:
        raise UserError(
            Problem("FOLDER", str(folder), "there is no such folder; runs are in a recipe's output")
        )
    found = listing(folder)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("run", "begun"):
        table.add_column(name, no_wrap=True, overflow="fold")
    for name in ("steps", "first accuracy", "last accuracy", "failed", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in found:
        name = "." if run.path == folder else str(run.path.relative_to(folder))
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.begun))
        steps, wanted, failed = ("?" if n is None else str(n) for n in (run.steps, run.wanted, run.failed))
        accuracies = _number(run.first), _number(run.last)
        table.add_row(Text(name), begun, f"{steps}/{wanted}", *accuracies, failed, decimal(run.bytes))
    terminal().print(table if found else f"there is no run in {folder}")
    for run in found:
        if run.unread:
            terminal().print(Text(f"warning: {run.unread}"), soft_wrap=True)


def compare(first: Path, second: Path, task: str | None) -> None:
    """Print how the means moved, the tasks that moved most, and the first call that differs of one task."""
    with evaluated(first) as a, evaluated(second) as b:
        primary = a.recipe.transitions.reward
        if primary != b.recipe.transitions.reward:
            cure = f"is learnt from in one of them, {b.recipe.transitions.reward!r} in the other"
            raise UserError(Problem("transitions.reward", primary, cure))
        found = compared(_scores(a, primary), _scores(b, primary), primary)
        _show(found, a, b)
        pair = _pair(found, task)
        one, other = _rollout(a, pair.first), _rollout(b, pair.second)
    _show_parting(pair, one, other, parting(one, other))


def _scores(side: Evaluated, primary: str) -> dict[str, TaskScores]:
    query = Query([Condition("batch", "=", side.batch)], limit=READ)
    rollouts = every(lambda page: side.records.find_rollouts(page, (SpanKind.REWARD,)), query)
    return dict(task_scores(rollouts, primary))


def _rollout(side: Evaluated, scores: TaskScores) -> Rollout:
    """The first sample that has a score."""
    rollout = side.records.rollout(next(iter(scores.scored)))
    assert rollout is not None
    return rollout


def _pair(found: Comparison, task: str | None) -> Pair:
    """The one that is asked for, or the one that moved most."""
    if task is None:
        return found.pairs[0]
    pair = next((pair for pair in found.pairs if pair.task == task), None)
    if pair is None:
        raise UserError(Problem("--task", task, "is none of the tasks that both have a score of"))
    return pair


def _show(found: Comparison, a: Evaluated, b: Evaluated) -> None:
    out = terminal()
    out.print(Text(f"first   {a.name}\nsecond  {b.name}"))
    # Where the results lie tells nothing.
    changed = [each.where for each in loading.differences(b.recipe, a.recipe) if each.where != "output"]
    if changed:
        out.print(Text(f"their recipes differ in {', '.join(changed)}"))
    table = Table("metric", "first", "second", "difference", "95 % interval", "method", "tasks")
    for name, moved in found.metrics.items():
        cells = (_number(moved.first.value), _number(moved.second.value), f"{moved.difference.value:+.4f}")
        table.add_row(name, *cells, *_doubt(moved.difference))
    out.print(table)
    if found.left_out:
        told = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
        out.print(f"tasks that are not compared: {told}")
    won = sum(pair.flipped and pair.change > 0 for pair in found.pairs)
    lost = sum(pair.flipped and pair.change < 0 for pair in found.pairs)
    better, worse = (sum(sign * pair.change > 0 for pair in found.pairs) for sign in (1, -1))
    equal = len(found.pairs) - better - worse
    flipped = f"{won} newly solved, {lost} no longer solved"
    out.print(f"tasks: {better} better, {worse} worse, {equal} equal; {flipped}")
    moved_most = [pair for pair in found.pairs if pair.change][:_SHOWN]
    if moved_most:
        table = Table("task", "first", "second", "change", "")
        for pair in moved_most:
            means = (pair.first.mean(pair.primary), pair.second.mean(pair.primary))
            flip = ("solved" if pair.change > 0 else "lost") if pair.flipped else ""
            table.add_row(Text(pair.task), *map(_number, means), f"{pair.change:+.4g}", flip)
        out.print(table)


def _show_parting(pair: Pair, first: Rollout, second: Rollout, found: Parting | None) -> None:
    out = terminal()
    if found is None:
        out.print(Text(f"\ntask {pair.task}: every call asks and says the same in both"))
        return
    out.print(
        Text(f"\ntask {pair.task}: call {found.number} is the first that differs: {_PARTED[found.how]}")
    )
    table = Table(width=min(out.width, _WIDTH))  # which a file has no bound of
    for rollout in (first, second):
        table.add_column(Text(rollout.id), ratio=1, overflow="fold")
    sides = [
        Lines(*told_lines(call)) if call else Text("it had ended") for call in (found.first, found.second)
    ]
    table.add_row(*sides)
    out.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _doubt(found: Estimate) -> tuple[str, str, str]:
    return found.interval("+.4f"), found.method, str(found.tasks)
