"""Which rollouts of a run somebody means, and how they are listed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import typer

from al_ray.cli.arguments.shared import BatchOption, ModeOption

MOST: Final = 2**31 - 1
"""A page of so many, so far on, can still be counted to."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rollouts of a run are meant."""

    batch: BatchOption = None
    status: Annotated[str | None, typer.Option(help="Only this status, for example failed.")] = None
    mode: ModeOption = None
    task: Annotated[str | None, typer.Option(metavar="ID", help="Only this task.")] = None
    min_reward: Annotated[float | None, typer.Option(help="Only with at least this reward.")] = None
    max_reward: Annotated[float | None, typer.Option(help="Only with at most this reward.")] = None
    error: Annotated[str | None, typer.Option(metavar="TEXT", help="Only with this in an error.")] = None
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only with a call of this agent; * is any text.")
    ] = None


@dataclass(frozen=True, slots=True)
class Pages:
    """In which order they are listed, and how many."""

    sort: Annotated[
        str, typer.Option(help="reward, seconds or attempts, the greatest first; asked, the newest last.")
    ] = "asked"
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False
    limit: Annotated[
        int, typer.Option(min=1, max=MOST, help="So many: the first in an order, else the last.")
    ] = 50
    page: Annotated[int, typer.Option(min=1, max=MOST, help="2: those that follow, and so on.")] = 1
