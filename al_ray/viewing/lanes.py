"""The lineage of a rollout's calls: each row that its tokens would be trained in, as a lane of pieces.

A row begins with what another one saw before it where the two begin alike; there it hangs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from al_ray.algorithms.rows import NO_CALL, build_rows
from al_ray.types import Row, Trajectory


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a row that stand together: of one call's answer, or what it was only shown."""

    begin: int
    tokens: int
    call: int | None
    """Which transition sampled them, from 0; None: context."""
    inherited: bool = False
    """The row that this one hangs on has the same."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A row."""

    number: int
    parent: int | None
    """The number of the earlier row with which it begins; None: it begins like none."""
    shared: int
    """How many tokens it has in common with that."""
    tokens: int
    trained: int
    pieces: Sequence[Piece]

    @property
    def calls(self) -> Sequence[int]:
        """The transitions that are trained in it, from 0."""
        return [piece.call for piece in self.pieces if piece.call is not None]


def lanes(trajectory: Trajectory) -> Sequence[Lane]:
    """The forest of a trajectory's rows, in the order in which they began."""
    rows = build_rows([trajectory], [[0.0] * len(trajectory.transitions)], "rollout_mean")
    found = []
    for number, row in enumerate(rows):
        common = [_common(row.tokens, before.tokens) for before in rows[:number]]
        shared = max(common, default=0)
        parent = common.index(shared) if shared else None
        trained = int(row.trained.sum())
        found.append(Lane(number, parent, shared, len(row.tokens), trained, [*_pieces(row, shared)]))
    return found


def _pieces(row: Row, shared: int) -> Sequence[Piece]:
    pieces = []
    marks = [(int(call), place < shared) for place, call in enumerate(row.calls)]
    begin = 0
    for (call, inherited), same in groupby(marks):
        count = len(list(same))
        known = None if call == NO_CALL else call
        pieces.append(Piece(begin, count, known, inherited))
        begin += count
    return pieces


def _common(left: np.ndarray, right: np.ndarray) -> int:
    """How many tokens they begin with alike."""
    length = min(len(left), len(right))
    differ = np.flatnonzero(left[:length] != right[:length])
    return int(differ[0]) if len(differ) else length
