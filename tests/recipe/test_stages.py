"""Stages that cannot work are refused, with what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from al_ray.recipe import Recipe, ReinforcementStage, checks
from al_ray.recipe.stages import NAMED
from tests.support.runs import toy

MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"algorithm": "rejection_sampling", "keep": 9, "group_size": 8},
        "stages.0.keep: 9: is more than a group has: at most group_size, 8",
    ),
    (
        {"algorithm": "rejection_sampling", "group_size": 1},
        "stages.0.threshold: None: a number, or a larger group_size",
    ),
    (
        {"algorithm": "on_policy_distillation", "teacher": "wiser"},
        "stages.0.teacher: 'wiser': is no hosted model; name one of upstreams, of which there are: wise",
    ),
    (
        {"algorithm": "on_policy_distillation", "teacher": "wise", "reward_weight": 0.1},
        "stages.0.reward_weight: 0.1: has no effect with group_size: 1",
    ),
    (
        {"algorithm": "on_policy_distillation", "teacher": "wise", "staleness": 1},
        "stages.0.staleness: 1: 0: a token's worth is a difference from the policy that drew it",
    ),
    (
        {"algorithm": "grpo", "kl_in": "reward", "kl_coefficient": 0.1},
        "stages.0.kl_in: 'reward': loss, or set scale to none or batch: in a group of equal rewards",
    ),
    (
        {"algorithm": "grpo", "baseline": "none"},
        "stages.0.scale: 'group': none or batch, or set a baseline",
    ),
]
IDLE: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"discount": 0.9}, "on credit: identical; set credit to reward_to_go", {"credit": "reward_to_go"}),
    ({"gae_lambda": 0.5}, "on credit: identical; set credit to gae", {"credit": "gae"}),
    ({"critic": {"steps": 3}}, "on credit: identical; set credit to gae", {"credit": "gae"}),
    ({"anchor_weight": 3.0}, "on credit: identical; set credit to group_in", {"credit": "group_in_group"}),
    (
        {"kl_in": "reward"},
        "with kl_coefficient: 0; give it a weight",
        {"kl_coefficient": 0.1, "scale": "none"},
    ),
    ({"kl_estimator": "k2"}, "with kl_coefficient: 0; give it a weight", {"kl_coefficient": 0.1}),
    ({"reference_every": 3}, "with kl_coefficient: 0; give it a weight", {"kl_coefficient": 0.1}),
    (
        {"reference_mix": 0.5},
        "with reference_every: 0, where the reference stays",
        {"reference_every": 2, "kl_coefficient": 0.1},
    ),
    ({"correction_cap": 5.0}, "with correction: none; choose one", {"staleness": 1}),
    ({"correction_bound": "mask"}, "with correction: none; choose one", {"correction": "token"}),
    ({"constant_tokens": 9}, "with aggregate: rollout_mean; set aggregate to", {"aggregate": "constant"}),
    ({"clip_low": 0.1, "staleness": 1}, "with correction: token and one optimizer step", {"epochs": 2}),
    ({"clip_high": 0.3, "staleness": 1}, "with correction: token and one", {"mini_batches": 2}),
    ({"clip_dual": 3.0, "loss": "gspo", "staleness": 1}, "with correction: sequence", {"epochs": 2}),
    (
        {"compare": "agent", "baseline": "none", "scale": "batch"},
        "with baseline: none, by which nothing is compared",
        {"baseline": "mean"},
    ),
    ({"reference_every": 4, "kl_coefficient": 0.1}, "in 4 steps: set it to less", {"steps": 5}),
    ({"intermediate": "potential"}, "without transitions.intermediate; give signals a worth there", {}),
]
UPSTREAMS = {"wise": {"base_url": "http://127.0.0.1:8000/v1", "model": "large"}}


def problems(stage: dict[str, Any], **transitions: Any) -> list[str]:
    content = toy.recipe(Path("model"), Path("out")) | {"upstreams": UPSTREAMS, "transitions": transitions}
    content["stages"] = [{"steps": 4, "optimizer": {"learning_rate": 1e-3}, **stage}]
    recipe = Recipe.model_validate(content)
    sound = {"stages", "agent", "transitions", "upstreams"}
    return [str(problem) for problem in checks.problems(recipe, sound) if problem.where.startswith("stages")]


@pytest.mark.parametrize(("stage", "expected"), MISTAKES)
def test_a_stage_that_cannot_work_is_refused(stage: dict[str, Any], expected: str) -> None:
    (found,) = problems(stage)
    assert found.startswith(expected)


@pytest.mark.parametrize(("field", "expected", "effect"), IDLE)
def test_a_field_that_would_do_nothing_is_refused_and_taken_where_it_does_something(
    field: dict[str, Any], expected: str, effect: dict[str, Any]
) -> None:
    name = next(iter(field))
    (found,) = problems({"algorithm": "grpo", **field})
    assert found.startswith(f"stages.0.{name}: ") and f"has no effect {expected}" in found
    if effect:
        assert problems({"algorithm": "grpo", **field, **effect}) == []


@pytest.mark.parametrize("algorithm", NAMED)
@pytest.mark.parametrize("staleness", [0, 2])
def test_what_an_algorithm_chooses_itself_is_not_held_against_the_recipe(
    algorithm: str, staleness: int
) -> None:
    """k2 of reinforce_pp_baseline, where there is no divergence, say; nor where all of it is written out."""
    chosen = {"algorithm": algorithm, "staleness": staleness}
    assert problems(chosen) == []
    fields = {"steps": 2, "optimizer": {"learning_rate": 1e-3}}
    assert problems(ReinforcementStage.model_validate(fields | chosen).model_dump()) == []


def test_a_potential_is_taken_where_signals_are_worth_something() -> None:
    stage = {"algorithm": "grpo", "intermediate": "potential", "credit": "reward_to_go"}
    assert problems(stage, intermediate={"tool_errors": -0.1}) == []


@pytest.mark.parametrize("intermediate, said", [("added", 1), ("potential", 0)])
def test_a_credit_of_ones_own_discounts_by_itself_and_the_potential_beside_it_by_the_recipe(
    intermediate: str, said: int
) -> None:
    own = {"credit": "al_ray.algorithms.credit.final:final", "intermediate": intermediate}
    found = problems({"algorithm": "grpo", "discount": 0.9, **own}, intermediate={"tool_errors": -0.1})
    assert len([problem for problem in found if problem.startswith("stages.0.discount: 0.9: has no")]) == said


def test_what_was_sampled_from_a_part_of_the_distribution_may_be_imitated() -> None:
    """Reinforcement may not learn from it: the learner computes the whole."""
    for algorithm, refused in (("rejection_sampling", False), ("grpo", True)):
        content = toy.recipe(Path("model"), Path("out"))
        content["agent"]["sampling"]["top_p"] = 0.9
        content["stages"] = [{"algorithm": algorithm, "steps": 2, "optimizer": {"learning_rate": 1e-3}}]
        found = checks.problems(Recipe.model_validate(content), {"stages", "agent"})
        assert any(problem.where == "agent.sampling.top_p" for problem in found) == refused


def test_a_teacher_is_of_temperature_1() -> None:
    content = toy.recipe(Path("model"), Path("out")) | {"upstreams": UPSTREAMS}
    content["agent"]["sampling"]["temperature"] = 0.5
    stage = {"algorithm": "on_policy_distillation", "teacher": "wise", "steps": 2}
    content["stages"] = [{**stage, "optimizer": {"learning_rate": 1e-3}}]
    every = checks.problems(Recipe.model_validate(content), {"stages", "agent", "upstreams"})
    (found,) = (problem for problem in every if problem.where.startswith("agent.sampling"))
    assert str(found).startswith("agent.sampling.temperature: 0.5: 1: a teacher (stages.0) tells")


def test_a_reference_does_not_move_part_of_the_way_to_an_adapter() -> None:
    content = toy.recipe(Path("model"), Path("out"))
    stage = {"algorithm": "grpo", "steps": 2, "optimizer": {"learning_rate": 1e-3}, "kl_coefficient": 0.1}
    content["stages"] = [stage | {"reference_every": 1, "reference_mix": 0.5}]
    for lora, refused in ((None, False), ({}, True)):
        recipe = Recipe.model_validate(content | {"model": {"path": "model", "lora": lora}})
        found = [str(problem) for problem in checks.problems(recipe, {"stages", "model"})]
        told = [each for each in found if "stages.0.reference_mix: 0.5: 1 with model.lora" in each]
        assert len(told) == refused, found


@pytest.mark.parametrize("algorithm", NAMED)
def test_a_divergence_in_the_reward_is_k1_whatever_the_algorithm_takes_in_its_loss(algorithm: str) -> None:
    """Its gradient is that of the divergence there, and that of no other is; a recipe may have its way."""
    given = {"algorithm": algorithm, "steps": 2, "optimizer": {"learning_rate": 1e-3}, "kl_coefficient": 0.1}
    in_loss, in_reward = (
        ReinforcementStage.model_validate(given | {"kl_in": place}) for place in ("loss", "reward")
    )
    assert in_loss.kl_estimator == NAMED[algorithm].get("kl_estimator", "k3")
    assert in_reward.kl_estimator == "k1"
    chosen = ReinforcementStage.model_validate(given | {"kl_in": "reward", "kl_estimator": "k3"})
    assert chosen.kl_estimator == "k3"
