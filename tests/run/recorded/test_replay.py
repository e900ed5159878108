"""A recorded step by a changed recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from al_ray.database.writer import Database
from al_ray.errors import UserError
from al_ray.recipe import Recipe, loading
from al_ray.run.folder import RunFolder
from al_ray.run.recorded.replay import replay
from tests.support.runs import quiz
from tests.support.runs.recorded import record_samples


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Of two steps, without a checkpoint."""
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    content = quiz.recipe(tmp_path / "out")
    content |= {"model": {"path": str(tiny_model), "max_length": 128}, "placement": {"device": "cpu"}}
    content["stages"][0] |= {"steps": 2, "group_size": 2, "groups_per_step": 1}
    folder = RunFolder.create(loading.load(quiz.write_recipe(tmp_path, content)), "a")
    database = Database(folder.store_url)
    for step in (0, 1):
        record_samples(database, f"step-{step:06d}", {"u1": [(1.0, ["yes"]), (0.0, ["no"])]}, "train")
    database.close()
    return folder


def changed(recipe: Recipe, stage: Mapping[str, Any]) -> Recipe:
    content = recipe.model_dump(mode="json")
    content["stages"][0] |= stage
    return Recipe.model_validate(content)


@pytest.mark.parametrize(
    ("stage", "kept"),
    [
        ({"kl_coefficient": 0.1}, "kl_coefficient, reference_every, reference_mix"),
        ({"kl_coefficient": 0.1, "kl_in": "reward", "scale": "none"}, "kl_coefficient, reference_every"),
        ({"credit": "gae"}, "credit, critic"),
        ({"optimizer": {"learning_rate": 0.5}, "epochs": 2}, "optimizer"),
    ],
)
def test_what_learners_keep_for_a_stage_can_be_changed_in_its_first_step_alone(
    run: RunFolder, stage: Mapping[str, Any], kept: str
) -> None:
    """Later ones have an optimizer, a reference and a critic with a past, by the run's own recipe."""
    recipe = changed(run.recipe(), stage)
    assert replay(run, 1, recipe).figures["learner/trained_tokens"] > 0
    with pytest.raises(UserError, match=rf"--set: '{kept}.*from step 1 on"):
        replay(run, 2, recipe)
    assert replay(run, 2, changed(run.recipe(), {"scale": "none"})).figures["optim/grad_norm"] > 0
