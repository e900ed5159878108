"""``al-ray rollouts`` and ``al-ray export``: what a run has recorded; it may be under way."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

from al_ray.database.reader import Records
from al_ray.errors import Problem, UserError
from al_ray.reports.console import terminal
from al_ray.rollouts.search import Order, Search, find, last
from al_ray.rollouts.terminal import rollouts_table, show
from al_ray.run.folder import RunFolder
from al_ray.types import Mode, RolloutStatus


def search(run: Path, conditions: Mapping[str, Any]) -> Search:
    """What the command line asks for of the rollouts of a run."""
    for name, choices in (("status", tuple(RolloutStatus)), ("mode", get_args(Mode))):
        if conditions.get(name) not in (None, *choices):
            raise UserError(Problem(f"--{name}", conditions[name], f"one of {', '.join(choices)}"))
    return Search(**conditions, dimension=RunFolder.newest(run).recipe().transitions.reward)


def order(name: str) -> Order:
    """What ``--sort`` names."""
    if name not in tuple(Order):
        raise UserError(Problem("--sort", name, f"one of {', '.join(Order)}"))
    return Order(name)


def list_rollouts(run: Path, wanted: Search, by: Order, *, reverse: bool, limit: int, page: int) -> None:
    """A table of those that fit."""
    with closing(Records(RunFolder.newest(run).store_url)) as records:
        found = last(records, wanted, by, reverse=reverse, limit=limit, page=page)
    terminal().print(rollouts_table(found[-limit:], wanted.dimension))
    if len(found) > limit:
        terminal().print(f"there are more before these: --page {page + 1}")


def show_rollout(run: Path, rollout: str) -> None:
    """All of one rollout, named by its id or the beginning of it."""
    folder = RunFolder.newest(run)
    with closing(Records(folder.store_url)) as records:
        found = find(records, rollout)
    terminal().print(show(found, folder.recipe().transitions.reward))


def export(run: Path, wanted: Search, what: str, format: str | None, output: Path) -> str:
    """Write the records to the file; says what was written."""
    from al_ray.rollouts.export import Export
    from al_ray.rollouts.export import export as write

    folder = RunFolder.newest(run)
    with closing(Records(folder.store_url)) as records:
        rows = write(Export(records, wanted, folder.recipe().transitions), what, format, output)
    return f"{output}: {rows} {what}"
