"""Global steps: what belongs to each, over all stages."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from al_ray.recipe import CheckpointSection, EvaluationSection, Recipe
from al_ray.recipe.schedule import (
    checkpoint_due,
    evaluation_due,
    evaluation_name,
    span_of_step,
    stage_spans,
    total_steps,
)
from tests.support.runs import toy


def recipe(steps: list[int], every: int, keep_every: int) -> Recipe:
    """With so many steps of imitation and reinforcement in turns."""
    content = toy.recipe(Path("model"), Path("out"))
    stages = [content["stages"][index % 2] | {"steps": count} for index, count in enumerate(steps)]
    whole = Recipe.model_validate(content | {"stages": stages})
    return whole.model_copy(
        update={
            "evaluation": EvaluationSection(every=every),
            "checkpoint": CheckpointSection(every=keep_every),
        }
    )


RECIPES = st.builds(
    recipe, st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 4), st.integers(1, 4)
)


@given(RECIPES)
def test_stages_cover_every_step_once_in_order(recipe: Recipe) -> None:
    spans = stage_spans(recipe)
    steps = [(span.index, step) for span in spans for step in range(span.begin, span.end)]
    assert [step for _, step in steps] == list(range(sum(stage.steps for stage in recipe.stages)))
    assert [index for index, _ in steps] == [i for i, s in enumerate(recipe.stages) for _ in range(s.steps)]
    assert total_steps(recipe) == len(steps)
    assert [span_of_step(recipe, step) for _, step in steps] == [spans[index] for index, _ in steps]
    assert span_of_step(recipe, -1) is None and span_of_step(recipe, len(steps)) is None


@given(RECIPES)
def test_evaluations_have_names_of_their_own(recipe: Recipe) -> None:
    """The name is part of the rollouts' ids: two alike would share their rollouts."""
    names = [evaluation_name(recipe, step) for step in range(total_steps(recipe) + 1)]
    assert len(set(names)) == len(names)


@given(RECIPES)
def test_the_end_of_a_stage_is_evaluated_and_kept_and_so_is_every_nth_step_of_it(recipe: Recipe) -> None:
    for span in stage_spans(recipe):
        steps = range(span.begin + 1, span.end + 1)
        every = recipe.evaluation.every
        nth = set(steps[every - 1 :: every]) if every else set()
        assert {step for step in steps if evaluation_due(recipe, span, step)} == nth | {span.end}
        kept = set(steps[recipe.checkpoint.every - 1 :: recipe.checkpoint.every]) | {span.end}
        assert {step for step in steps if checkpoint_due(recipe, span, step)} == kept


def test_the_names_say_what_the_policy_has_been_through() -> None:
    names = [evaluation_name(recipe([2, 1, 1, 1], 0, 1), step) for step in range(6)]
    assert names == [
        "untrained",
        "step 1",
        "after supervised",
        "after grpo",
        "after supervised 2",
        "after grpo 2",
    ]
