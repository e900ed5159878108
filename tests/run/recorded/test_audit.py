"""Every sampled token is accounted for, and what does not add up is told; a real run in ``test_driver``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

from al_ray.recipe import Recipe
from al_ray.run.recorded.audit import CONTEXT, TRAINED, StepAudit, _audit_of, _trained
from al_ray.run.stages.grouped import Grouped
from al_ray.types import AttemptStatus, Group, Span, SpanKind
from tests.run.stages.test_reinforcement import RECIPE, groups, rollout, settled, stage

NO_KL = RECIPE.stages[1].model_copy(update={"kl_coefficient": 0.0})
PLAIN = RECIPE.model_copy(update={"stages": [RECIPE.stages[0], NO_KL]})


def audit(ended: list[Group], logged: float, recipe: Recipe = PLAIN) -> StepAudit:
    return audit_of(stage(recipe), ended, logged)


def audit_of(asked: Grouped, ended: list[Group], logged: float) -> StepAudit:
    """What became of what a stage ``asked`` for."""

    def earlier(rollout_id: str, number: int) -> list[Span]:
        return [span for span in rollout("x", 0, None).spans if span.kind is SpanKind.CALL]

    records = SimpleNamespace(attempt_spans=earlier)
    return _audit_of(records, asked, ended, 3, logged)  # type: ignore[arg-type]


def by_fate(found: StepAudit) -> dict[str, int]:
    counts = Counter[str]()
    for (fate, version), tokens in found.tokens.items():
        assert version == 5
        counts[fate] += tokens
    return dict(counts)


def test_each_token_is_trained_or_left_out_for_a_stated_reason() -> None:
    """Of rollouts of two tokens each, one of which was tried twice."""
    ended = groups([0.0, 1.0], [1.0, 1.0], [1.0, None], [0.0, 0.5, None])
    tried = ended[0].rollouts[0]
    again = replace(
        tried, attempts=[replace(tried.attempts[0], status=AttemptStatus.FAILED), *tried.attempts]
    )
    ended[0] = replace(ended[0], rollouts=[again, *ended[0].rollouts[1:]])
    found = audit(ended, 8)
    assert by_fate(found) == {
        TRAINED: 8,
        "without an advantage": 4,
        "dropped: it failed": 4,
        "dropped: without a reward, a trained call, or others to compare it with": 2,
        "dropped: its attempt was tried again": 2,
    }
    assert found.wrong == []


def test_calls_of_agents_that_are_not_trained_are_context() -> None:
    """The toy's calls have no agent's name."""
    ended = [Group("g0", "step-000002", [rollout("g0", member, float(member), 2) for member in (0, 1)])]
    assert by_fate(audit(ended, 8)) == {TRAINED: 8}
    named = [replace(each, spans=[_named(span) for span in each.spans]) for each in ended[0].rollouts]
    only = settled(train=["writer"]).model_copy(update={"stages": PLAIN.stages})
    found = audit([replace(ended[0], rollouts=named)], 4, only)
    assert by_fate(found) == {TRAINED: 4, CONTEXT: 4} and found.wrong == []


def _named(span: Span) -> Span:
    name = "writer" if span.sequence == 0 else "judge"
    return replace(span, attributes={**span.attributes, "gen_ai.agent.name": name})


def test_a_total_that_the_learners_did_not_log_is_told() -> None:
    assert audit(groups([0.0, 1.0]), 7).wrong == [
        "4 tokens are trained by the rows, 7 by what the learners logged"
    ]


def test_a_call_that_stands_in_two_rows_or_in_none_is_told() -> None:
    learnt = stage(PLAIN).learnt(groups([0.0, 1.0]))
    assert _trained(learnt)[1] == []
    twice = replace(learnt, rows=[*learnt.rows, learnt.rows[0]])
    assert _trained(twice)[1] == ["call g0/0 g0/0/0/0: 4 tokens in rows to be trained of 2"]
    missing = replace(learnt, rows=learnt.rows[1:])
    assert _trained(missing)[1] == ["call g0/0 g0/0/0/0: 0 tokens in rows to be trained of 2"]
