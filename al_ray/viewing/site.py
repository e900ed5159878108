"""Which page there is at which path, made of what the query asks for.

Everything that stands in a page comes through a template that escapes it: what tasks, agents and models wrote
is shown as text, whatever it is. Raises ``UserError`` where there is nothing to show.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args
from urllib.parse import urlencode

import jinja2

from al_ray.database.judged import judge_batch
from al_ray.errors import Problem, UserError
from al_ray.rollouts.reading.search import Order
from al_ray.types import Mode, Rollout, RolloutStatus
from al_ray.viewing import charts
from al_ray.viewing.beside import beside
from al_ray.viewing.index import Entry, Wanted
from al_ray.viewing.overview import ago, charts_of, overview, run_row
from al_ray.viewing.runs import Runs, ViewedRun
from al_ray.viewing.since import logprobs_since
from al_ray.viewing.told import ToldRollout, told

if TYPE_CHECKING:
    from al_ray.run.recorded.worth import CallRow

_FOLDER: Final = Path(__file__).parent / "pages"
_MOST_BESIDE: Final = 8
_DRAWN: Final = 6
"""Runs that are drawn where nobody chooses."""
_PAGE: Final = 50

Query = Mapping[str, Sequence[str]]
Choice = TypeVar("Choice", bound=StrEnum)


class Site:
    """The pages about some runs."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.pages: Mapping[str, Callable[[Query], str]] = {
            "/": self._runs,
            "/run": self._run,
            "/rollouts": self._rollouts,
            "/rollout": self._rollout,
            "/group": self._group,
            "/task": self._task,
        }
        loader = jinja2.FileSystemLoader(_FOLDER)
        self._templates = jinja2.Environment(
            loader=loader,
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(number=charts.number, ago=ago, moment=_moment)
        self._templates.globals.update(url=url, box=(charts.WIDTH, charts.HEIGHT))

    def worth(self, query: Query) -> Mapping[str, Any]:
        """What the calls of some rollouts were worth, as JSON: ``{ROLLOUT: {"note", "calls": {CALL/INDEX:
        {"advantage", ...}}}}``."""
        run = self._the_run(query)
        made = {id: run.worths.of(self._read(run, id)) for id in query.get("id", ())}
        return {
            id: {"note": each.note, "calls": {name: _told_worth(call) for name, call in each.calls.items()}}
            for id, each in made.items()
        }

    def since(self, query: Query) -> Mapping[str, Sequence[float]]:
        """The log-probabilities of the tokens of a rollout under the newest checkpoint, by CALL/INDEX."""
        run = self._the_run(query)
        return logprobs_since(run.folder, run.recipe, self._read(run, _one(query, "id")))

    def problem(self, error: UserError) -> str:
        """The page that says what cannot be shown."""
        return self._page("problem", problems=error.problems)

    def _page(self, name: str, **values: Any) -> str:
        return self._templates.get_template(f"{name}.html.jinja").render(**values)

    def _runs(self, query: Query) -> str:
        runs = self.runs.all()
        rows = [run_row(run) for run in runs]
        readable = {row.name for row in rows if not row.error}
        asked = [name for name in query.get("run", ()) if name in readable]
        chosen = asked or [row.name for row in rows if not row.error][:_DRAWN]
        drawn = [run for name in chosen for run in runs if run.name == name]
        everything = bool(query.get("all"))
        return self._page(
            "runs",
            rows=rows,
            chosen=chosen,
            charts=charts_of(drawn, everything=everything),
            colours={name: number % charts.COLOURS for number, name in enumerate(chosen)},
            everything=everything,
            folder=str(self.runs.root),
        )

    def _run(self, query: Query) -> str:
        run = self._the_run(query)
        everything = bool(query.get("all"))
        return self._page("run", run=run, page=overview(run, everything=everything), everything=everything)

    def _rollouts(self, query: Query) -> str:
        run = self._the_run(query)
        run.index.refresh()
        wanted = _wanted(query)
        found = run.index.find(wanted)
        return self._page(
            "rollouts",
            run=run,
            wanted=wanted,
            found=found,
            value=run.index.value,
            asked={name: values[-1] for name, values in query.items() if values[-1]},
            statuses=list(RolloutStatus),
            modes=get_args(Mode),
            orders=list(Order),
            batches=run.index.batches()[-200:],
            total=len(run.index),
        )

    def _rollout(self, query: Query) -> str:
        run = self._the_run(query)
        run.index.refresh()
        rollout = self._read(run, _one(query, "id"))
        members = run.index.by_group.get((rollout.request.batch, rollout.request.group), [])
        place = next((n for n, each in enumerate(members) if each.brief.id == rollout.id), 0)
        page = self._told(run, rollout)
        return self._page(
            "rollout",
            run=run,
            page=page,
            before=members[place - 1].brief.id if place else "",
            after=members[place + 1].brief.id if place + 1 < len(members) else "",
            members=len(members),
            judge=self._judge(run, rollout),
            tries=len(run.index.by_task.get(rollout.request.task.id, ())),
            dimension=run.index.dimension,
            missing=run.texts.missing,
            width=max((lane.tokens for lane in page.lanes), default=1),
        )

    def _judge(self, run: ViewedRun, rollout: Rollout) -> str:
        """The id of the rollout that rewarded its group, if one did."""
        request = rollout.request
        judges = run.index.by_group.get((judge_batch(request.batch), request.group), ())
        return next((entry.brief.id for entry in judges), "")

    def _group(self, query: Query) -> str:
        """A group's rollouts, beside each other."""
        run = self._the_run(query)
        run.index.refresh()
        batch, group = _one(query, "batch"), _one(query, "group")
        members = run.index.by_group.get((batch, group), [])
        if not members:
            raise UserError(Problem("group", f"{batch} {group}", "the run has no such group"))
        shown = members[:_MOST_BESIDE]
        columns = [self._told(run, self._read(run, each.brief.id)) for each in shown]
        return self._page(
            "group", run=run, batch=batch, group=group, page=beside(columns), entries=members,
            value=run.index.value, left=len(members) - len(shown),
        )  # fmt: skip

    def _task(self, query: Query) -> str:
        """The rollouts of one task through training, two of them beside each other."""
        run = self._the_run(query)
        run.index.refresh()
        task = _one(query, "task")
        tries = run.index.by_task.get(task, [])
        if not tries:
            raise UserError(Problem("task", task, "the run has no rollout of such a task"))
        asked = [id for name in ("before", "after") for id in query.get(name, ())[-1:]]
        chosen = asked if len(asked) == 2 else _first_and_last(tries)
        columns = [self._told(run, self._read(run, id)) for id in chosen]
        values = [
            (place, value) for place, each in enumerate(tries) if (value := run.index.value(each)) is not None
        ]
        points = [charts.Point(place, value, value, value) for place, value in values]
        drawn = charts.Series("reward", 0, points, dots=True)
        return self._page(
            "task",
            run=run,
            task=task,
            tries=tries,
            value=run.index.value,
            page=beside(columns),
            chosen=chosen,
            chart=charts.chart(
                "reward of each rollout of the task, in order", "", [drawn], x_end=len(tries) - 1
            ),
        )

    def _the_run(self, query: Query) -> ViewedRun:
        return self.runs.one(_one(query, "run"))

    def _read(self, run: ViewedRun, id: str) -> Rollout:
        found = run.index.listing.rollout(id)
        if found is None:
            raise UserError(Problem("rollout", id, f"the run {run.title} has no such rollout"))
        return found

    def _told(self, run: ViewedRun, rollout: Rollout) -> ToldRollout:
        return told(rollout, run.texts, run.recipe.transitions)


def url(path: str, **query: Any) -> str:
    """The address of a page; what is None or empty is not asked for."""
    asked = {name: value for name, value in query.items() if value not in (None, "", [])}
    return f"{path}?{urlencode(asked, doseq=True)}" if asked else path


def _told_worth(call: CallRow) -> Mapping[str, float | None]:
    names = ("advantage", "weight", "reward", "intermediate", "returned")
    return {name: getattr(call, name) for name in names}


def _first_and_last(tries: Sequence[Entry]) -> Sequence[str]:
    """Of those that have ended, of the mode in which the task was tried most often."""
    ended = [entry.brief for entry in tries if entry.brief.status.ended] or [entry.brief for entry in tries]
    modes = [brief.mode for brief in ended]
    mode = max(dict.fromkeys(modes), key=modes.count)
    same = [brief for brief in ended if brief.mode == mode]
    return list(dict.fromkeys((same[0].id, same[-1].id)))


def _wanted(query: Query) -> Wanted:
    return Wanted(
        batch=_last(query, "batch"),
        group=_last(query, "group"),
        status=_choice(query, "status", RolloutStatus),
        mode=_mode(query),
        task=_last(query, "task"),
        text=_last(query, "text"),
        error=_last(query, "error"),
        min_reward=_number(query, "min_reward"),
        max_reward=_number(query, "max_reward"),
        order=_choice(query, "sort", Order) or Order.ASKED,
        ascending=bool(_last(query, "ascending")),
        page=max(1, int(_number(query, "page") or 1)),
        limit=_PAGE,
    )


def _mode(query: Query) -> Mode | None:
    value = _last(query, "mode")
    modes: Sequence[Mode] = get_args(Mode)
    if value and value not in modes:
        raise UserError(Problem("mode", value, f"one of {', '.join(modes)}"))
    return next((mode for mode in modes if mode == value), None)


def _choice(query: Query, name: str, choices: type[Choice]) -> Choice | None:
    value = _last(query, name)
    try:
        return choices(value) if value else None
    except ValueError:
        raise UserError(Problem(name, value, f"one of {', '.join(choices)}")) from None


def _number(query: Query, name: str) -> float | None:
    value = _last(query, name)
    try:
        found = float(value) if value else None
    except ValueError:
        found = math.nan
    if found is not None and not math.isfinite(found):
        raise UserError(Problem(name, value, "a number"))
    return found


def _last(query: Query, name: str) -> str:
    values = query.get(name, ())
    return values[-1].replace("\0", "") if values else ""  # PostgreSQL has no such text


def _one(query: Query, name: str) -> str:
    value = _last(query, name)
    if not value:
        raise UserError(Problem(name, value, f"the address names no {name}"))
    return value


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
