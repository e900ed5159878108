"""A step of on-policy distillation trains every token by what the teacher says of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from al_ray.recipe import Recipe
from al_ray.recipe.schedule import stage_spans
from al_ray.run.recorded.audit import TRAINED
from al_ray.run.stages.distillation import Distillation
from al_ray.run.stages.stage import stage_of
from al_ray.traces import semconv
from al_ray.types import Span, SpanKind
from tests.run.recorded.test_audit import audit_of
from tests.run.stages.test_reinforcement import RECIPE, TASKS, groups, with_spans
from tests.run.stages.test_teacher import Server, serving
from tests.support.runs.metric_keys import unlisted


def stage(upstream: Any = None, **fields: Any) -> Distillation:
    content = RECIPE.model_dump()
    content["upstreams"] = {"wise": upstream or {"base_url": "http://127.0.0.1:1/v1", "model": "large"}}
    content["stages"][1] = {
        "algorithm": "on_policy_distillation",
        "teacher": "wise",
        "steps": 3,
        "optimizer": {"learning_rate": 1e-3},
        **fields,
    }
    recipe = Recipe.model_validate(content)
    made = stage_of(recipe, stage_spans(recipe)[1], TASKS)
    assert isinstance(made, Distillation)
    return made


SERVED: Any = SimpleNamespace(served_version=5)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("TEACHERS_KEY", "secret")
    return Server(Path("none"))


async def test_a_tokens_worth_is_the_teachers_log_probability_less_the_policys(server: Server) -> None:
    """Tokens 3 and 4 of each call were drawn with -1, and the teacher says -0.03 and -0.04. Rewards do not
    matter, nor that a group has one rollout."""
    async with serving(server) as upstream:
        made = stage(upstream.model_dump())
        ended = groups([0.0], [1.0], [None])
        batch = await made.batch_of(ended, SERVED)
    assert [row.rollout_id for row in batch.rows] == ["g0/0", "g1/0"]
    for row in batch.rows:
        assert row.advantages[row.trained] == pytest.approx(np.array([0.005, -0.005]), abs=1e-6)
    assert batch.metrics["teacher/kl"] == pytest.approx(-1 + 0.035)
    assert batch.metrics["reward/mean"] == 0.5, "told all the same"
    assert unlisted(batch.metrics) == []


async def test_a_rollout_without_a_reward_is_learnt_from_and_in_no_mean_of_rewards(server: Server) -> None:
    """It was given another dimension alone."""

    def of_style(span: Span) -> Span:
        given = {semconv.REWARD_DIMENSIONS: {"style": 0.25}}
        return replace(span, attributes=given) if span.kind is SpanKind.REWARD else span

    async with serving(server) as upstream:
        first, *others = groups([1.0], [0.5], [0.5])
        batch = await stage(upstream.model_dump()).batch_of(
            [first, *(with_spans(group, of_style) for group in others)], SERVED
        )
    assert len(batch.rows) == 3
    assert (batch.metrics["reward/mean"], batch.metrics["reward/std"]) == (1.0, 0.0)
    assert batch.metrics["rewards/style"] == 0.25


async def test_rewards_count_beside_the_teacher_where_they_have_a_weight(server: Server) -> None:
    """Each less the mean of its group, which must have two."""
    async with serving(server) as upstream:
        made = stage(upstream.model_dump(), reward_weight=0.5, group_size=2)
        learnt = await made.measured(groups([0.0, 1.0], [1.0, None]), SERVED)
    found = {row.rollout_id: row.advantages[row.trained].mean() for row in learnt.rows}
    assert found == {"g0/0": pytest.approx(-0.25), "g0/1": pytest.approx(0.25)}


def test_the_audit_needs_no_teacher() -> None:
    found = audit_of(stage(), groups([0.0], [1.0], [None]), 4)
    counts = Counter[str]()
    for (fate, _), tokens in found.tokens.items():
        counts[fate] += tokens
    assert counts == {TRAINED: 4, "dropped: it failed": 2} and found.wrong == []
