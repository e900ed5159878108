"""A step of rejection sampling imitates the best rollouts of its groups, and tells what became of others."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from al_ray.recipe import Recipe
from al_ray.recipe.schedule import stage_spans
from al_ray.run.recorded.audit import TRAINED
from al_ray.run.stages.rejection_sampling import RejectionSampling
from al_ray.run.stages.stage import stage_of
from tests.run.recorded.test_audit import audit_of
from tests.run.stages.test_reinforcement import RECIPE, TASKS, Simulated, groups, made
from tests.support.runs.metric_keys import unlisted

OPTIMIZER = {"learning_rate": 1e-3}


def stage(**fields: Any) -> RejectionSampling:
    content = RECIPE.model_dump()
    content["stages"][1] = {
        "algorithm": "rejection_sampling",
        "steps": 3,
        "groups_per_step": 2,
        "group_size": 2,
        "optimizer": OPTIMIZER,
        **fields,
    }
    recipe = Recipe.model_validate(content)
    made = stage_of(recipe, stage_spans(recipe)[1], TASKS)
    assert isinstance(made, RejectionSampling)
    return made


def test_the_best_of_each_group_are_imitated_and_groups_count_alike() -> None:
    """Whichever number of rollouts a group keeps; failed ones are out of the question."""
    batch = made(stage(keep=2), groups([0.0, 1.0, 0.5], [0.25, 0.0, None], [1.0, 1.0]), 5)
    assert {row.rollout_id: pytest.approx(row.weights.sum()) for row in batch.rows} == {
        "g0/1": 1 / 4,
        "g0/2": 1 / 4,
        "g1/0": 1 / 2,
    }
    told = {key: batch.metrics[key] for key in batch.metrics if key.startswith("imitation/")}
    assert told == {
        "imitation/rollouts": 3,
        "imitation/groups": 2,
        "imitation/reward": pytest.approx((1 + 0.5 + 0.25) / 3),
    }
    assert batch.metrics["reward/mean"] == pytest.approx(3.75 / 7), "of all that can be compared"
    assert batch.metrics["health/equal_groups"] == pytest.approx(1 / 3)
    assert unlisted(batch.metrics) == []


def test_a_step_in_which_nothing_is_worth_imitating_is_empty_and_says_so() -> None:
    batch = made(stage(threshold=0.9), groups([0.0, 0.5], [None, None]), 5)
    assert batch.rows == []
    assert (batch.metrics["imitation/groups"], batch.metrics["imitation/reward"]) == (0, 0)
    assert batch.metrics["reward/mean"] == 0.25
    assert batch.metrics["health/equal_groups"] == 0, "they are unlike, and none is good enough"


def test_a_group_of_equals_is_imitated_if_it_is_good_enough() -> None:
    assert [row.rollout_id for row in made(stage(threshold=1.0), groups([1.0, 1.0]), 5).rows] == ["g0/0"]


async def test_groups_of_which_nothing_is_kept_are_replaced() -> None:
    agents = Simulated(lambda request: float("refill-1" in request.id and request.id.endswith("/1")))
    found = await stage(refills=3).groups(2, agents, lambda *done: None)  # type: ignore[arg-type]
    assert [len(asked) for asked in agents.asked] == [4, 4]
    rows = stage(refills=3).learnt(found).rows
    assert {row.rollout_id for row in rows} == {
        "step-000002-refill-1/0/1",
        "step-000002-refill-1/1/1",
    }


def test_the_audit_says_why_the_others_tokens_were_dropped() -> None:
    """Two tokens a rollout."""
    found = audit_of(stage(), groups([0.0, 1.0], [1.0, 1.0], [0.5, None]), 2)
    counts = Counter[str]()
    for (fate, _), tokens in found.tokens.items():
        counts[fate] += tokens
    assert counts == {
        TRAINED: 2,
        "dropped: rejected, being none of the best of its group": 8,
        "dropped: it failed": 2,
    }
    assert found.wrong == []
