"""The table of stages."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from al_ray.actors.learner.spec import Reference
from al_ray.recipe import AnyStage, Recipe
from al_ray.recipe.schedule import stage_spans
from al_ray.run.stages.stage import STAGES, stage_of
from tests.support.runs import toy


def test_every_stage_that_a_recipe_may_have_can_be_run() -> None:
    assert set(get_args(get_args(AnyStage)[0])) == set(STAGES)


def test_only_reinforcement_with_a_divergence_needs_a_reference_and_only_rollouts_served_weights() -> None:
    content = toy.recipe(Path("model"), Path("out"))
    for coefficient in (0.0, 0.1):
        content["stages"][1]["kl_coefficient"] = coefficient
        recipe = Recipe.model_validate(content)
        supervised, reinforced = (stage_of(recipe, span, ()) for span in stage_spans(recipe))
        assert (supervised.spec.reference, supervised.needs_served_weights) == (None, False)
        assert reinforced.spec.reference == (Reference() if coefficient else None)
        assert reinforced.needs_served_weights
