"""What the calls of a run's rollouts were worth, made once a step when somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from al_ray.database.listing import Listing
from al_ray.errors import UserError
from al_ray.recipe import Recipe
from al_ray.rollouts.requests import step_of
from al_ray.run.folder import RunFolder
from al_ray.run.recorded.worth import Worth, logged_step, worth_of_step
from al_ray.types import Rollout

_KEPT: Final = 8
"""Steps whose worth is remembered."""


class Worths:
    """Of one run."""

    def __init__(self, folder: RunFolder, recipe: Recipe, listing: Listing) -> None:
        self._folder = folder
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
                if why := self._not_ended(step):
                    return Worth(note=why)
                while len(self._steps) >= _KEPT:
                    del self._steps[next(iter(self._steps))]
                self._steps[step] = worth_of_step(self._recipe, self._listing, step)
            missing = Worth(note="no stage that learns from rollouts has asked for it")
            return self._steps[step].get(rollout.id, missing)

    def _not_ended(self, step: int) -> str:
        """Why the worth of a step cannot be told, if so: until it has ended, its judges may give rewards and
        its refills may take the place of groups."""
        try:
            logged = logged_step(self._folder, step + 1)
        except UserError as error:  # the rollout itself is there to be looked at
            return str(error)
        return f"step {step + 1} has not ended yet" if logged is None else ""
