"""``al-ray rollouts`` and ``al-ray export``: what a run has recorded; it may be under way."""

from __future__ import annotations

import math
import sys
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, get_args

import orjson

from al_ray.cli.arguments.listing import Filters, Pages
from al_ray.database.reader import Records
from al_ray.errors import NoStoreError, Problem, UserError
from al_ray.reports.console import terminal
from al_ray.rollouts.exporting.row import rollout_row
from al_ray.rollouts.reading.search import Order, Search, ended, find, last
from al_ray.rollouts.reading.story import Told, story
from al_ray.rollouts.reading.terminal import rollout_line, rollouts_table, show
from al_ray.run.folder import RunFolder
from al_ray.run.recorded.worth import worth
from al_ray.types import Mode, RolloutStatus

_LOOK_SECONDS: Final = 1.0


def search(run: Path, filters: Filters) -> Search:
    """What the command line asks for of the rollouts of a run."""
    given = asdict(filters)
    for name, choices in (("status", tuple(RolloutStatus)), ("mode", get_args(Mode))):
        if given[name] not in (None, *choices):
            raise UserError(Problem(f"--{name}", given[name], f"one of {', '.join(choices)}"))
    for name in ("min_reward", "max_reward"):
        if given[name] is not None and math.isnan(given[name]):
            raise UserError(Problem(f"--{name.replace('_', '-')}", given[name], "no reward is more or less"))
    return Search(**given, dimension=RunFolder.newest(run).recipe().transitions.reward)


def order(name: str) -> Order:
    """What ``--sort`` names."""
    if name not in tuple(Order):
        raise UserError(Problem("--sort", name, f"one of {', '.join(Order)}"))
    return Order(name)


def list_rollouts(run: Path, wanted: Search, by: Order, pages: Pages, *, as_json: bool) -> None:
    """Those that fit: as they were asked for, the last at the end; in another order, the first."""
    limit, page = pages.limit, pages.page
    with closing(Records(RunFolder.newest(run).store_url, read_only=True)) as records:
        found = last(records, wanted, by, reverse=pages.reverse, limit=limit, page=page)
    shown = found[-limit:]
    if by is not Order.ASKED:
        shown = shown[::-1]
    if as_json:
        for rollout in shown:
            _print_json(rollout_row(rollout, wanted.dimension))
        return
    terminal().print(rollouts_table(shown, wanted.dimension))
    if len(found) > limit:
        where = "before" if by is Order.ASKED else "after"
        terminal().print(f"there are more {where} these: --page {page + 1}")


def follow(run: Path, wanted: Search, *, as_json: bool) -> None:
    """Those that fit, a line each as they end, until somebody interrupts this."""
    with closing(_begun(RunFolder.newest(run))) as records:
        for rollout in ended(records, wanted, lambda: time.sleep(_LOOK_SECONDS)):
            if as_json:
                _print_json(rollout_row(rollout, wanted.dimension))
            else:
                print(rollout_line(rollout, wanted.dimension), flush=True)


def _begun(folder: RunFolder) -> Records:
    """Those of a run whose driver may still be at work on what comes before its store."""
    told = False
    while True:
        try:
            return Records(folder.store_url, read_only=True)
        except NoStoreError:
            if not told:
                print(f"waiting: {folder.path} has no store yet", file=sys.stderr, flush=True)
            told = True
            time.sleep(_LOOK_SECONDS)


def show_rollout(run: Path, rollout: str, *, as_json: bool) -> None:
    """All of one rollout, named by its id or the beginning of it, with what its calls were worth."""
    folder = RunFolder.newest(run)
    dimension = folder.recipe().transitions.reward
    with closing(Records(folder.store_url, read_only=True)) as records:
        found = find(records, rollout)
        known = worth(folder, records, found)
    if as_json:
        told = [{"kind": _kind(each), **asdict(each)} for each in story(found)]
        row = rollout_row(found, dimension)
        _print_json({**row, "advantages": known.advantages, "story": told})
        return
    terminal().print(show(found, dimension, known.advantages))
    if known.note:
        terminal().print(f"advantages: {known.note}")


def _kind(told: Told) -> str:
    """call, reward or event."""
    return type(told).__name__.removeprefix("Told").lower()


def _print_json(value: Any) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE).decode())
    sys.stdout.flush()


def export(run: Path, wanted: Search, what: str, format: str | None, output: Path) -> str:
    """Write the records to the file; says what was written."""
    from al_ray.rollouts.exporting.files import export as write
    from al_ray.rollouts.exporting.tables import Export

    folder = RunFolder.newest(run)
    with closing(Records(folder.store_url, read_only=True)) as records:
        source = Export(records, wanted, folder.recipe().transitions)
        if what == "episodes":
            from al_ray.run.ended.episodes import export_episodes

            rows = export_episodes(source, format, output)
        else:
            rows = write(source, what, format, output)
    return f"{output}: {rows} {what}"
