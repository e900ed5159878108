"""What the calls of a run's rollouts were worth, made once a step when somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from al_ray.database.listing import Listing
from al_ray.recipe import Recipe
from al_ray.rollouts.requests import step_of
from al_ray.run.recorded.worth import Worth, worth_of_step
from al_ray.types import Rollout

_KEPT: Final = 8
"""Steps whose worth is remembered."""


class Worths:
    """Of one run."""

    def __init__(self, recipe: Recipe, listing: Listing) -> None:
        self._recipe = recipe
        self._listing = listing
        self._lock = threading.Lock()
        self._steps: dict[int, Mapping[str, Worth]] = {}

    def of(self, rollout: Rollout) -> Worth:
        """That of the calls of ``rollout``, if something was learnt from it."""
        if (step := step_of(rollout.request)) is None:
            return Worth(note=f"nothing is learnt from rollouts of mode {rollout.request.mode}")
        with self._lock:
            if step not in self._steps:
                if self._is_under_way(rollout.request.batch):
                    return Worth(note="its step's rollouts have not all ended yet")
                while len(self._steps) >= _KEPT:
                    del self._steps[next(iter(self._steps))]
                self._steps[step] = worth_of_step(self._recipe, self._listing, step)
            missing = Worth(note="no stage that learns from rollouts has asked for it")
            return self._steps[step].get(rollout.id, missing)

    def _is_under_way(self, batch: str) -> bool:
        return any(brief.batch == batch for brief in self._listing.unfinished())
