"""Several runs of a recipe that differ by their seed alone."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from al_ray.errors import UselessRunError, UserError
from al_ray.recipe import Recipe, loading
from al_ray.run.ended.over_seeds import SeedRun, done, ends, runs, summary
from al_ray.run.folder import RunChoice, RunFolder
from tests.support.runs import quiz


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    return loading.load(quiz.write_recipe(tmp_path, quiz.recipe(tmp_path / "out")), ["seed=5"])


def train(run: SeedRun) -> None:
    """Leaves what a run leaves; that of seed 6 teaches nothing."""
    folder = run.choice.open(run.recipe)
    if run.recipe.seed == 6:
        raise UselessRunError("no rollout asked the model")
    last = run.recipe.seed / 10
    lines = [
        {"step": 0, "eval/accuracy": 0.25, "eval/stderr": 0.1, "eval/tasks": 12},
        {"step": 1, "reward/mean": 0.9},
        {"step": 1, "eval/accuracy": last, "eval/stderr": 0.1, "eval/tasks": 12, "eval/em": last / 2},
    ]
    (folder.path / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def test_each_seed_is_a_run_of_its_own_and_one_that_teaches_nothing_is_not_counted(recipe: Recipe) -> None:
    wanted = runs(recipe, 3, RunChoice("x", resume=False))
    assert [run.path.name for run in wanted] == ["x-seed5", "x-seed6", "x-seed7"]
    failed = done(wanted, train)
    assert failed == {wanted[1].path: "no rollout asked the model"}
    assert [RunFolder.open(run.path).recipe().seed for run in wanted] == [5, 6, 7]
    assert [ends(run.path).accuracies for run in wanted] == [(0.25, 0.5), (None, None), (0.25, 0.7)]
    found = summary([run for run in wanted if run.path not in failed])
    assert list(found) == ["eval/accuracy", "eval/em", "eval/accuracy, since the first"]
    assert found["eval/accuracy"].value == pytest.approx(0.6) and found["eval/accuracy"].tasks == 2
    assert found["eval/accuracy, since the first"].value == pytest.approx(0.35)
    assert found["eval/em"].low < found["eval/em"].value == pytest.approx(0.3)


def test_runs_that_are_there_are_resumed_where_that_is_asked_for(recipe: Recipe) -> None:
    done(runs(recipe, 2, RunChoice("x", resume=False)), train)
    again = runs(recipe, 3, RunChoice("x", resume=True))
    assert [run.choice.resume for run in again] == [True, True, False]
    with pytest.raises(UserError, match="this run exists; give another --run, or --resume"):
        runs(recipe, 2, RunChoice("x", resume=False))
    with pytest.raises(UserError, match="give --run too"):
        runs(recipe, 2, RunChoice(None, resume=True))
    with pytest.raises(UserError, match="--resume: 'y-seed5': there is no such run"):
        runs(recipe, 2, RunChoice("y", resume=True))


def test_a_name_that_is_empty_is_none(recipe: Recipe) -> None:
    """Of several runs as of one: it is not taken for one that was not given."""
    for run in (*runs(recipe, 2, RunChoice("", resume=False)), SeedRun(recipe, RunChoice("", False), Path())):
        with pytest.raises(UserError, match=r"--run: .*: letters, digits and"):
            run.choice.open(run.recipe)
