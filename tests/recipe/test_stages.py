"""Stages that cannot work are refused, with what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from al_ray.recipe import Recipe, checks
from tests import toy

MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"algorithm": "rejection_sampling", "keep": 9, "group_size": 8},
        "stages.0.keep: 9: is more than a group has: at most group_size, 8",
    ),
    (
        {"algorithm": "rejection_sampling", "group_size": 1},
        "stages.0.threshold: None: a number, or a larger group_size",
    ),
]


def problems(stage: dict[str, Any], **sections: Any) -> list[str]:
    content = toy.recipe(Path("model"), Path("out")) | sections
    content["stages"] = [{"steps": 2, "optimizer": {"learning_rate": 1e-3}, **stage}]
    recipe = Recipe.model_validate(content)
    sound = {"stages", "agent", "transitions", "upstreams"}
    return [str(problem) for problem in checks.problems(recipe, sound) if problem.where.startswith("stages")]


@pytest.mark.parametrize(("stage", "expected"), MISTAKES)
def test_a_stage_that_cannot_work_is_refused(stage: dict[str, Any], expected: str) -> None:
    (found,) = problems(stage)
    assert found.startswith(expected)


def test_what_was_sampled_from_a_part_of_the_distribution_may_be_imitated() -> None:
    """Reinforcement may not learn from it: the learner computes the whole."""
    for algorithm, refused in (("rejection_sampling", False), ("grpo", True)):
        content = toy.recipe(Path("model"), Path("out"))
        content["agent"]["sampling"]["top_p"] = 0.9
        content["stages"] = [{"algorithm": algorithm, "steps": 2, "optimizer": {"learning_rate": 1e-3}}]
        found = checks.problems(Recipe.model_validate(content), {"stages", "agent"})
        assert any(problem.where == "agent.sampling.top_p" for problem in found) == refused
