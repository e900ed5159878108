"""Which rollouts of a run are measured, and by which weights.

Of a step of reinforcement, since credits compare a step's rollouts; by the weights that sampled them, where
these are kept: the value of a state is that of a policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from al_ray.database.reader import Records
from al_ray.errors import Problem, UserError
from al_ray.evaluation.measured.credits import Said, Way, own_way, said
from al_ray.evaluation.measured.values import Recorded
from al_ray.recipe import Recipe, ReinforcementStage
from al_ray.recipe.schedule import stage_spans
from al_ray.rollouts.reading.search import find
from al_ray.rollouts.requests import step_of
from al_ray.run.folder import RunFolder
from al_ray.run.stages.reinforcement import Reinforcement
from al_ray.types import Rollout, Trajectory


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asks for; None is left to ``chosen``."""

    step: int | None = None
    """1 is the first, as steps are logged."""
    rollouts: Sequence[str] = ()
    """Ids, or beginnings of them."""
    count: int = 8
    """Rollouts of the step that are measured where none are named."""
    checkpoint: Path | None = None
    """Other weights than those that sampled the rollouts."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is measured."""

    step: int
    weights: Path | None
    """None: those of the recipe's model."""
    weights_name: str
    """What the weights are called, and no others that may be named."""
    recorded: Sequence[Recorded]
    said: Mapping[Way, Said]
    """What credits say of the step's calls."""
    own: Way
    """The stage's."""


def chosen(folder: RunFolder, recipe: Recipe, wanted: Wanted) -> Chosen:
    """``recipe`` is the run's. Raises ``UserError`` if it has recorded no such rollouts, or does not keep the
    weights."""
    if recipe.policies:
        cure = "has several policies, and a call is measured by playing on from it with one: not supported"
        raise UserError(Problem("run", str(folder.path), cure))
    if judge := folder.recipe().agent.judge:
        cure = (
            "rewards a group's rollouts beside each other, and those that play on from one state would be a "
            "group of their own: their mean is no value of the state. Not supported"
        )
        raise UserError(Problem("agent.judge", judge, cure))
    with closing(Records(folder.store_url, read_only=True)) as records:
        named = [find(records, prefix) for prefix in wanted.rollouts]
        step = _step(folder, recipe, records, wanted, named)
        stage = _stages(recipe).get(step)
        if stage is None:
            told = f"steps of reinforcement are {_ranges(recipe)}"
            raise UserError(Problem("--step", step, told))
        groups = stage.recorded(records, step - 1)
    if not groups:
        raise UserError(Problem("--step", step, f"no group of this step has ended in {folder.path}"))
    kept = stage.learnt(groups).kept
    if not kept:
        cure = "nothing was learnt from this step: choose another one"
        raise UserError(Problem("--step", step, cure))
    rollouts = {rollout.id: rollout for group in groups for rollout in group.rollouts}
    weights, name = _weights(folder, step, wanted.checkpoint)
    return Chosen(
        step=step,
        weights=weights,
        weights_name=name,
        recorded=_recorded(kept, rollouts, [each.id for each in named], wanted.count),
        said=said(stage.settings, recipe.agent.sampling, kept),
        own=own_way(stage.settings),
    )


def _stages(recipe: Recipe) -> Mapping[int, Reinforcement]:
    """The stage of each step of reinforcement."""
    return {
        step: Reinforcement(recipe, span.stage, span, ())
        for span in stage_spans(recipe)
        if isinstance(span.stage, ReinforcementStage)
        for step in range(span.begin + 1, span.end + 1)
    }


def _ranges(recipe: Recipe) -> str:
    spans = [span for span in stage_spans(recipe) if isinstance(span.stage, ReinforcementStage)]
    return ", ".join(f"{span.begin + 1} to {span.end}" for span in spans) or "none"


def _step(
    folder: RunFolder, recipe: Recipe, records: Records, wanted: Wanted, named: Sequence[Rollout]
) -> int:
    """The one that is asked for, or of the rollouts that are; else the newest whose weights are kept."""
    of_named = {_step_of(rollout) for rollout in named}
    if wanted.step is not None:
        of_named.add(wanted.step)
    if len(of_named) > 1:
        told = "measure rollouts of one step at a time: the weights that sampled others are other ones"
        raise UserError(Problem("--rollout", f"of steps {', '.join(map(str, sorted(of_named)))}", told))
    if of_named:
        return of_named.pop()
    stages = _stages(recipe)
    known = stages if wanted.checkpoint else [done + 1 for done in (0, *folder.checkpoints())]
    for step in sorted(known, reverse=True):
        if step in stages and stages[step].recorded(records, step - 1):
            return step
    cure = "keeps the weights of no step of reinforcement that it recorded: name others with --checkpoint"
    raise UserError(Problem("run", str(folder.path), cure))


def _step_of(rollout: Rollout) -> int:
    before = step_of(rollout.request)
    if before is None:
        cure = f"is of {rollout.request.batch}: only rollouts of a step of reinforcement have a credit"
        raise UserError(Problem("--rollout", rollout.id, cure))
    return before + 1


def _weights(folder: RunFolder, step: int, other: Path | None) -> tuple[Path | None, str]:
    """Those that sampled the rollouts of a step: the run's after the steps before it."""
    if other is not None:
        if not (other / "config.json").is_file():
            raise UserError(
                Problem("--checkpoint", str(other), "it has no config.json: name a model's folder")
            )
        return other.resolve(), _name(folder, other.resolve())
    if step == 1:
        return None, "untrained"
    if step - 1 not in folder.checkpoints():
        kept = ", ".join(map(str, folder.checkpoints())) or "none"
        cure = (
            f"its rollouts were sampled by the weights after step {step - 1}, which are not kept (there are: "
            f"{kept}); ask for the step after one of these, or name other weights with --checkpoint"
        )
        raise UserError(Problem("--step", step, cure))
    return folder.checkpoint(step - 1), folder.checkpoint(step - 1).name


def _name(folder: RunFolder, weights: Path) -> str:
    """Unlike that of any others: a measurement that is gone on with repeats no rollouts of the same name."""
    if weights.parent == folder.checkpoint(0).parent:
        return weights.name
    return f"{weights.name}-{hashlib.sha256(bytes(weights)).hexdigest()[:8]}"


def _recorded(
    kept: Sequence[Sequence[Trajectory]], rollouts: Mapping[str, Rollout], named: Sequence[str], count: int
) -> Sequence[Recorded]:
    """Those that are named; else the first of each group, the second of each, and so on."""
    in_turn = [each for members in zip_longest(*kept) for each in members if each is not None]
    if named:
        known = {each.rollout_id: each for each in in_turn}
        for name in named:
            if name not in known:
                cure = (
                    "no credit is assigned in it: it failed, has no reward, or is of a group that was dropped"
                )
                raise UserError(Problem("--rollout", name, cure))
        in_turn = [known[name] for name in named]
        count = len(in_turn)
    return [Recorded.of(rollouts[each.rollout_id], each) for each in in_turn[:count]]
