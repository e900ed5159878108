"""What became of every token that engines sampled for the steps of a run.

Each is trained once, stands in a row as context only, or was dropped for a stated reason. The rows are made
again from the store, by the recipe, as the run made them: that they are the same is told by the number of
tokens that the learners say they trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from al_ray.database.reader import Records
from al_ray.recipe.schedule import StageSpan, stage_spans
from al_ray.reports import jsonl_sink
from al_ray.run.folder import RunFolder
from al_ray.run.stages.grouped import Grouped, Learnt
from al_ray.run.stages.stage import stage_of
from al_ray.traces import call_span
from al_ray.types import Choice, Group, Rollout, RolloutStatus, Span, SpanKind

TRAINED: Final = "trained"
CONTEXT: Final = "context: its agent is not trained"
_TRAINED_TOKENS: Final = "learner/trained_tokens"


@dataclass(frozen=True, slots=True)
class StepAudit:
    """One step; global steps are counted from 1, as they are logged."""

    step: int
    tokens: Mapping[tuple[str, int], int]
    """By what became of them and the policy version that sampled them."""
    wrong: Sequence[str]
    """Calls whose tokens are not trained exactly once, and totals that differ from what was logged."""


def audit(folder: RunFolder) -> Iterator[StepAudit]:
    """Each step that the run has logged of the stages that learn from groups of rollouts."""
    recipe = folder.recipe()
    logged = {int(line["step"]): line for line in jsonl_sink.read(folder.path) if _TRAINED_TOKENS in line}
    with closing(Records(folder.store_url, read_only=True)) as records:
        for span in stage_spans(recipe):
            stage = stage_of(recipe, span, ())
            if not isinstance(stage, Grouped):
                continue
            for step in _steps(span, logged):
                groups = stage.recorded(records, step - 1)
                found = _audit_of(records, stage, groups, step, logged[step][_TRAINED_TOKENS])
                yield replace(found, tokens={**found.tokens, **_of_judges(records, stage, step - 1)})


def _steps(span: StageSpan, logged: Mapping[int, object]) -> Sequence[int]:
    return [step for step in range(span.begin + 1, span.end + 1) if step in logged]


def _of_judges(records: Records, stage: Grouped, step: int) -> dict[tuple[str, int], int]:
    """The tokens that judges had from the trained model."""
    tokens = Counter[tuple[str, int]]()
    for judge in stage.judges(step, records):
        for attempt in judge.attempts:
            for _, choice in _answers(records.attempt_spans(judge.id, attempt.number)):
                tokens.update(_by_version(choice, "dropped: a judge's"))
    return dict(tokens)


def _audit_of(
    records: Records, stage: Grouped, groups: Sequence[Group], step: int, logged: float
) -> StepAudit:
    learnt = stage.learnt(groups)
    trained, wrong = _trained(learnt)
    dropped = learnt.reasons
    tokens = Counter[tuple[str, int]]()
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        reason = _reason(rollout, dropped)
        for call, choice in _answers(rollout.spans):
            name = f"{rollout.id} {call.id}/{choice.index}"
            tokens.update(_by_version(choice, reason or trained.get(name) or _left_out(choice)))
        for attempt in rollout.attempts[:-1]:
            for _, choice in _answers(records.attempt_spans(rollout.id, attempt.number)):
                tokens.update(_by_version(choice, "dropped: its attempt was tried again"))
    total = sum(count for (fate, _), count in tokens.items() if fate == TRAINED)
    if total * learnt.passes.epochs != logged:
        often = f" {learnt.passes.epochs} times" if learnt.passes.epochs > 1 else ""
        wrong.append(
            f"{total} tokens are trained{often} by the rows, {logged:.0f} by what the learners logged"
        )
    return StepAudit(step, tokens, wrong)


def _trained(learnt: Learnt) -> tuple[dict[str, str], list[str]]:
    """What became of each transition that stands in rows, by rollout and id; and those trained otherwise than
    once."""
    counts = Counter[tuple[str, int]]()
    idle = set[str]()
    for row in learnt.rows:
        counts.update((row.rollout_id, int(call)) for call in row.calls[row.trained])
        if not learnt.loss.trains(row):
            idle.update(f"{row.rollout_id} {call}" for call in np.unique(row.calls[row.trained]))
    fates: dict[str, str] = {}
    wrong = []
    for episode in (episode for group in learnt.kept for episode in group):
        for number, t in enumerate(episode.transitions):
            name, found = f"{episode.rollout_id} {t.id}", counts[episode.rollout_id, number]
            silent = f"{episode.rollout_id} {number}" in idle
            fates[name] = CONTEXT if not t.trained else "without an advantage" if silent else TRAINED
            if found != len(t.response_ids) * t.trained:
                wrong.append(f"call {name}: {found} tokens in rows to be trained of {len(t.response_ids)}")
    return fates, wrong


def _reason(rollout: Rollout, dropped: Mapping[str, str | None]) -> str | None:
    """Why nothing of the rollout is in a row, if so."""
    if rollout.id in dropped:
        return dropped[rollout.id]
    failed = rollout.status is not RolloutStatus.SUCCEEDED
    return f"dropped: it {rollout.status}" if failed else "dropped: its spans cannot be read"


def _left_out(choice: Choice) -> str:
    return f"dropped: its call was {choice.finish_reason or 'empty'}"


def _answers(spans: Sequence[Span]) -> Iterator[tuple[Span, Choice]]:
    """Of our engines, with the calls that they answer."""
    for call in spans:
        for choice in call_span.choices(call) if call.kind is SpanKind.CALL else ():
            if choice.response_ids:
                yield call, choice


def _by_version(choice: Choice, fate: str) -> dict[tuple[str, int], int]:
    counts = Counter[tuple[str, int]]()
    for span in choice.versions:
        counts[fate, span.version] += span.end - span.start
    return counts
