"""Several optimizer steps on one batch: its mini-batches, and how often all of it is gone over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain, zip_longest
from typing import Final

import numpy as np

from al_ray.types import Row


@dataclass(frozen=True, slots=True)
class Passes:
    """PPO's inner loop (arXiv 1707.06347, algorithm 1)."""

    epochs: int = 1
    mini_batches: int = 1

    def __call__(self, rows: Sequence[Row]) -> list[list[Row]]:
        """The rows of each optimizer step. A row in a mini-batch is the same object in every epoch.

        Groups stay whole, for their rollouts share prompts; there are at most as many mini-batches as groups.
        A mini-batch of ``M`` weighs ``M`` times its part of the batch, so that over the ways to draw it the
        mean of its gradient is the batch's, whatever the rows' weights are a mean over. The order is another
        in each epoch, and the same for the same groups. Each policy has the mini-batches that it would have
        alone: one of fewer steps has no rows in the last ones.
        """
        of_policies = [
            self._of_policy([row for row in rows if row.policy == policy])
            for policy in dict.fromkeys(row.policy for row in rows) or [""]
        ]
        return [list(chain(*parts)) for parts in zip_longest(*of_policies, fillvalue=())]

    def _of_policy(self, rows: Sequence[Row]) -> list[list[Row]]:
        groups: dict[str, list[Row]] = {}
        count = min(self.mini_batches, len({row.group for row in rows}))
        if count <= 1:
            return [list(rows)] * self.epochs
        for row in rows:
            groups.setdefault(row.group, []).append(replace(row, weights=row.weights * np.float32(count)))
        return [
            [row for group in part for row in groups[group]]
            for epoch in range(self.epochs)
            for part in np.array_split(sorted(groups, key=lambda group: _draw(epoch, group)), count)
        ]


def _draw(epoch: int, group: str) -> bytes:
    return sha256(f"{epoch} {group}".encode()).digest()


ONCE: Final = Passes()
