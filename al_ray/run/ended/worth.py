"""What the calls of a recorded rollout were worth to the step that learnt from them: advantages, made again
from the store by the recipe, without learners."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from al_ray.database.reader import Records
from al_ray.recipe.schedule import stage_spans
from al_ray.reports import jsonl_sink
from al_ray.run.folder import RunFolder
from al_ray.types import Rollout, Row

_BATCH: Final = re.compile(r"step-(\d+)(?:-refill-\d+)?")
"""Of a step's rollouts, counted from 0 (``Grouped.batch_name``)."""
_LOGGED: Final = "optim/loss"


@dataclass(frozen=True, slots=True)
class Worth:
    """Of one rollout."""

    advantages: Mapping[str, float] = field(default_factory=dict)
    """By the call's id, a slash and the choice's index: those that are learnt from."""
    note: str = ""
    """Why there are none, or what they leave out."""


def worth(folder: RunFolder, records: Records, rollout: Rollout) -> Worth:
    """Nothing of a rollout that no step learns from."""
    batch = _BATCH.fullmatch(rollout.request.batch)
    if batch is None or rollout.request.mode != "train":
        return Worth()
    step = int(batch[1])
    if not any(line["step"] == step + 1 and _LOGGED in line for line in jsonl_sink.read(folder.path)):
        return Worth(note=f"no advantages yet: step {step + 1} has not ended")
    from al_ray.run.stages.grouped import Grouped  # with torch
    from al_ray.run.stages.stage import stage_of

    recipe = folder.recipe()
    span = next(span for span in stage_spans(recipe) if span.begin <= step < span.end)
    stage = stage_of(recipe, span, ())
    assert isinstance(stage, Grouped), "no other asks for rollouts"
    learnt = stage.learnt(stage.recorded(records, step))
    kept = [episode for group in learnt.kept for episode in group if episode.rollout_id == rollout.id]
    if not kept:
        return Worth(note=f"no advantages: {learnt.reasons.get(rollout.id) or 'dropped: it failed'}")
    found = worth_of_calls(learnt.rows)
    advantages = {
        call.id: found.get((rollout.id, number), (0.0, 0.0))[0]
        for number, call in enumerate(kept[0].transitions)
        if call.trained
    }
    note = ""
    if stage.needs_measured:
        note = f"advantages without what learners or teachers measured: al-ray replay RUN {step + 1} has that"
    return Worth(advantages, note)


def worth_of_calls(rows: Sequence[Row]) -> Mapping[tuple[str, int], tuple[float, float]]:
    """The advantage of each trained call, as its tokens have it, and the weight of all its tokens; by rollout
    and number."""
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for row in rows:
        for call in set(row.calls[row.trained].tolist()):
            own = row.calls == call
            found[row.rollout_id, call] = float(row.advantages[own][0]), float(row.weights[own].sum())
    return found
