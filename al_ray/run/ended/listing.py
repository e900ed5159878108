"""The runs that lie in a folder, each told in a line: from its recipe and what it logged; no database
is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from al_ray.errors import RecipeError, UserError
from al_ray.recipe.schedule import total_steps
from al_ray.reports import jsonl_sink
from al_ray.run.ended.over_seeds import ends
from al_ray.run.folder import RunFolder

_FAILED: Final = ("rollout/failed", "eval/failed")


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run, ended or under way."""

    path: Path
    begun: float
    """Seconds since the epoch."""
    steps: int | None
    """Those that have ended; None where what it logged cannot be read, as in all that follows from that."""
    wanted: int | None
    """Those of its recipe; None where this al_ray cannot read that."""
    first: float | None
    """Accuracy of its first evaluation; None without one."""
    last: float | None
    failed: int | None
    """Rollouts of all its steps and evaluations that failed."""
    bytes: int
    unread: str = ""
    """Why what it logged cannot be read, if so."""


def listing(folder: Path) -> Sequence[RunLine]:
    """Every run at or below ``folder``, the newest last."""
    return [line for run in RunFolder.all_in(folder) if (line := _line(run)) is not None]


def _line(run: RunFolder) -> RunLine | None:
    """None where it is being removed."""
    path = run.path
    try:
        begun = run.recipe_file.stat().st_mtime
    except FileNotFoundError:
        return None
    try:
        wanted = total_steps(run.recipe())
    except RecipeError:
        wanted = None
    line = RunLine(
        path=path,
        begun=begun,
        steps=None,
        wanted=wanted,
        first=None,
        last=None,
        failed=None,
        bytes=_bytes(path),
    )
    try:
        logged = jsonl_sink.read(path)
        first, last = ends(path).accuracies
    except UserError as error:  # the other runs are told all the same
        return replace(line, unread=str(error))
    return replace(
        line,
        steps=max((int(each["step"]) for each in logged), default=0),
        first=first,
        last=last,
        failed=int(sum(each.get(key) or 0 for each in logged for key in _FAILED)),
    )


def _bytes(folder: Path) -> int:
    """Of its files, those that may be looked at. A run under way removes some while they are counted."""
    found = 0
    for place, _, names in os.walk(folder):  # which passes over a folder that goes
        for name in names:
            with suppress(FileNotFoundError, PermissionError):
                found += os.lstat(os.path.join(place, name)).st_size
    return found
