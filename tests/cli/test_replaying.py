"""``al-ray replay``: what it says of a step that was computed once more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from al_ray.cli import replaying
from al_ray.recipe import Recipe, loading
from al_ray.run.folder import RunFolder
from al_ray.run.recorded.worth import CallRow
from tests.support.runs import toy


@dataclass(frozen=True)
class Computed:
    """In place of a ``Step``."""

    figures: Mapping[str, float]
    advantage: float


def calls(step: Computed) -> list[CallRow]:
    return [
        CallRow(
            rollout="r",
            number=0,
            id="r/0",
            agent="a",
            tokens=3,
            reward=1.0,
            intermediate=0.0,
            returned=1.0,
            advantage=step.advantage,
            weight=1.0,
        )
    ]


def test_what_a_changed_recipe_changes_is_told_also_where_the_figures_are_not_those_that_were_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on any machine but the run's: then it ends as what is not equal does."""
    recipe = Recipe.model_validate(toy.recipe(tmp_path / "model", tmp_path / "out"))
    folder = RunFolder.create(recipe, "a")
    steps = iter(Computed({"optim/loss": loss, "optim/grad_norm": 1.0}, loss) for loss in (0.5, 0.25))
    monkeypatch.setattr(replaying, "logged", lambda *_: {"optim/loss": 0.5000001, "optim/grad_norm": 1.0})
    monkeypatch.setattr(replaying, "replayed", lambda *_: next(steps))
    monkeypatch.setattr(replaying, "calls", calls)
    monkeypatch.setattr(loading, "load_changed", lambda *_: recipe)
    assert replaying.replay(folder.path, 3, None, ["seed=1"]) is False
    told = " ".join(capsys.readouterr().out.split())
    assert "optim/loss: 0.5, but the run logged 0.5000001" in told
    assert "1 of 2 figures are equal bit for bit" in told
    assert "changed: 0 calls have another reward, 1 another advantage" in told
    assert "optim/loss: 0.5, changed 0.25" in told
