"""What the calls of a step were worth to what was learnt: computed once more from what the store has, by the
recipe, as the run computed it.

That takes torch and all rollouts of the step, so it is done when somebody asks, once a step.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from al_ray.database.listing import Listing
from al_ray.errors import UserError
from al_ray.recipe import OnPolicyDistillationStage, Recipe, ReinforcementStage
from al_ray.recipe.schedule import stage_spans
from al_ray.types import Rollout

if TYPE_CHECKING:
    from al_ray.run.replay import CallRow

_BATCH: Final = re.compile(r"step-([0-9]+)(?:-refill-[0-9]+)?")
_KEPT: Final = 8
"""Steps whose worth is remembered."""


@dataclass(frozen=True, slots=True)
class RolloutWorth:
    """Of the calls of a rollout that stand in rows, by ``CALL/INDEX``."""

    calls: Mapping[str, CallRow] = field(default_factory=dict)
    note: str = ""
    """Why there are none, or what is not known of them."""


class Worths:
    """Of one run."""

    def __init__(self, recipe: Recipe, listing: Listing) -> None:
        self._recipe = recipe
        self._listing = listing
        self._lock = threading.Lock()
        self._steps: dict[int, Mapping[str, RolloutWorth]] = {}

    def of(self, rollout: Rollout) -> RolloutWorth:
        """That of the calls of ``rollout``, if something was learnt from it."""
        batch = _BATCH.fullmatch(rollout.request.batch)
        if batch is None or rollout.request.mode != "train":
            return RolloutWorth(note=f"nothing is learnt from rollouts of mode {rollout.request.mode}")
        step = int(batch[1])
        with self._lock:
            if step not in self._steps:
                if self._is_under_way(rollout.request.batch):
                    return RolloutWorth(note="its step's rollouts have not all ended yet")
                while len(self._steps) >= _KEPT:
                    del self._steps[next(iter(self._steps))]
                self._steps[step] = _worth_of_step(self._recipe, self._listing, step)
            missing = RolloutWorth(note="no stage that learns from rollouts has asked for it")
            return self._steps[step].get(rollout.id, missing)

    def _is_under_way(self, batch: str) -> bool:
        return any(brief.batch == batch for brief in self._listing.unfinished())


def _worth_of_step(recipe: Recipe, listing: Listing, step: int) -> Mapping[str, RolloutWorth]:
    """Of each rollout of a step, counted from 0."""
    from al_ray.run.replay import calls_of  # with torch
    from al_ray.run.stages.grouped import Grouped
    from al_ray.run.stages.stage import stage_of

    span = next((span for span in stage_spans(recipe) if span.begin <= step < span.end), None)
    stage = None if span is None else stage_of(recipe, span, ())
    if span is None or not isinstance(stage, Grouped):
        return {}
    groups = stage.recorded(listing, step)
    try:
        learnt = stage.learnt(groups)
    except UserError as error:
        return {each.id: RolloutWorth(note=str(error)) for group in groups for each in group.rollouts}
    found = {id: RolloutWorth(note=why) for id, why in learnt.reasons.items() if why is not None}
    of_calls: dict[str, dict[str, CallRow]] = {}
    for call in calls_of(stage, learnt.kept, learnt.rows):
        of_calls.setdefault(call.rollout, {})[call.id] = call
    unknown = _unknown(span.stage)
    found.update({rollout: RolloutWorth(calls, unknown) for rollout, calls in of_calls.items()})
    for each in (rollout for group in groups for rollout in group.rollouts):
        found.setdefault(each.id, RolloutWorth(note=f"it {each.status}, and nothing was learnt from it"))
    return found


def _unknown(stage: object) -> str:
    """What a stage learnt from that nobody recorded."""
    if isinstance(stage, OnPolicyDistillationStage):
        return "without what the teacher said of each token, which is not recorded"
    if isinstance(stage, ReinforcementStage):
        from al_ray.algorithms.named import needs_measured

        if needs_measured(stage):
            return "without what the learners measured of the calls, which is not recorded: al-ray replay"
    return ""
