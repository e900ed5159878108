"""What the calls of a step were worth to what was learnt: made again from what the store has, by the recipe,
as the run made it, without learners.

That takes torch and all rollouts of the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from al_ray.errors import UserError
from al_ray.recipe import OnPolicyDistillationStage, Recipe, ReinforcementStage
from al_ray.recipe.schedule import span_of_step
from al_ray.reports import jsonl_sink
from al_ray.rollouts.requests import step_of
from al_ray.types import Rollout, Row

if TYPE_CHECKING:
    from al_ray.algorithms.named import Groups
    from al_ray.database.listing import Listing
    from al_ray.database.reader import Records
    from al_ray.run.folder import RunFolder
    from al_ray.run.stages.grouped import Grouped

_LOGGED: Final = "optim/loss"


@dataclass(frozen=True, slots=True)
class CallRow:
    """What a call of a step was worth."""

    rollout: str
    number: int
    id: str
    """Its transition's: the call's id, a slash and the choice's index."""
    agent: str
    tokens: int
    reward: float
    """What it earned, before it was shaped."""
    intermediate: float
    returned: float | None
    """By credit, in its first layer; None for a call that is not trained, or to which credit gives none."""
    advantage: float
    """As its tokens have it: what was measured of it included."""
    weight: float
    """Of all its tokens."""


@dataclass(frozen=True, slots=True)
class Worth:
    """Of one rollout."""

    calls: Mapping[str, CallRow] = field(default_factory=dict)
    """By id, those that stand in rows."""
    note: str = ""
    """Why there are none, or what is not known of them."""

    @property
    def advantages(self) -> Mapping[str, float]:
        """Of its trained calls."""
        return {id: call.advantage for id, call in self.calls.items() if call.returned is not None}


def worth(folder: RunFolder, records: Records, rollout: Rollout) -> Worth:
    """Nothing of a rollout that no step learns from."""
    if (step := step_of(rollout.request)) is None:
        return Worth()
    try:
        if logged_step(folder, step + 1) is None:
            return Worth(note=f"step {step + 1} has not ended yet")
    except UserError as error:  # the rollout itself is there to be looked at
        return Worth(note=str(error))
    return worth_of_step(folder.recipe(), records, step).get(rollout.id, Worth())


def logged_step(folder: RunFolder, step: int) -> Mapping[str, Any] | None:
    """What the run logged of a step, counted from 1, when it ended; None: it has not."""
    lines = jsonl_sink.read(folder.path)
    return next((line for line in reversed(lines) if line["step"] == step and _LOGGED in line), None)


def worth_of_step(recipe: Recipe, records: Records | Listing, step: int) -> Mapping[str, Worth]:
    """Of each rollout of a step, counted from 0, that has ended."""
    from al_ray.run.stages.grouped import Grouped  # with torch
    from al_ray.run.stages.stage import stage_of

    span = span_of_step(recipe, step)
    stage = None if span is None else stage_of(recipe, span, ())
    if span is None or not isinstance(stage, Grouped):
        return {}
    groups = stage.recorded(records, step)
    try:
        learnt = stage.learnt(groups)
    except UserError as error:
        return {each.id: Worth(note=str(error)) for group in groups for each in group.rollouts}
    found = {id: Worth(note=why) for id, why in learnt.reasons.items() if why is not None}
    of_calls: dict[str, dict[str, CallRow]] = {}
    for call in calls_of(stage, learnt.kept, learnt.rows):
        of_calls.setdefault(call.rollout, {})[call.id] = call
    unknown = _unknown(span.stage, step)
    found.update({rollout: Worth(calls, unknown) for rollout, calls in of_calls.items()})
    for each in (rollout for group in groups for rollout in group.rollouts):
        found.setdefault(each.id, Worth(note=f"it {each.status}, and nothing was learnt from it"))
    return found


def calls_of(stage: Grouped, kept: Groups, rows: Sequence[Row]) -> Iterator[CallRow]:
    """Of the rollouts that a stage kept, as they stand in rows."""
    of_rows: dict[tuple[str, int], tuple[float, float]] = {}
    for row in rows:
        for number in set(row.calls[row.trained].tolist()):
            own = row.calls == number
            of_rows[row.rollout_id, number] = float(row.advantages[own][0]), float(row.weights[own].sum())
    returns = stage.algorithm.returns(kept)
    for group, of_group in zip(kept, returns, strict=True):
        for episode, given in zip(group, of_group, strict=True):
            for number, (t, returned) in enumerate(zip(episode.transitions, given, strict=True)):
                advantage, weight = of_rows.get((episode.rollout_id, number), (0.0, 0.0))
                yield CallRow(
                    rollout=episode.rollout_id,
                    number=number,
                    id=t.id,
                    agent=t.agent,
                    tokens=len(t.response_ids),
                    reward=t.reward + t.call_reward,
                    intermediate=t.intermediate,
                    returned=returned,
                    advantage=advantage,
                    weight=weight,
                )


def _unknown(stage: object, step: int) -> str:
    """What a stage learnt from that nobody recorded."""
    if isinstance(stage, OnPolicyDistillationStage):
        return "without what the teacher said of each token, which is not recorded"
    if isinstance(stage, ReinforcementStage):
        from al_ray.algorithms.named import needs_measured

        if needs_measured(stage):
            told = "without what the learners measured of the calls, which is not recorded"
            return f"{told}: al-ray replay RUN {step + 1} has that"
    return ""
