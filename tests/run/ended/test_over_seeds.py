"""Several runs of a recipe that differ by their seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
import pytest

from al_ray.errors import UselessRunError, UserError
from al_ray.recipe import Recipe, loading
from al_ray.reports.names import EVALUATION
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
    logged(
        folder.path,
        {"step": 0, **evaluated(0.25)},
        {"step": 1, "reward/mean": 0.9},
        {"step": 1, **evaluated(last), "eval/gain": last - 0.25, "eval/em": last / 2},
    )


def logged(run: Path, *lines: Mapping[str, float | None]) -> None:
    (run / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def evaluated(accuracy: float | None) -> dict[str, float | None]:
    """With all that an evaluation tells of itself."""
    return {metric.key: 0.5 for metric in EVALUATION if "NAME" not in metric.key} | {
        "eval/accuracy": accuracy
    }


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


@pytest.mark.parametrize(
    ("accuracies", "told"),
    [
        ([0.5], ["eval/accuracy"]),  # nothing to compare with
        ([None, 0.5], ["eval/accuracy"]),  # the first gave no score
        ([0.5, None], []),
        ([0.25, None, 0.5], ["eval/accuracy", "eval/accuracy, since the first"]),
    ],
)
def test_what_a_run_gained_is_told_where_its_first_and_last_evaluation_have_an_accuracy(
    recipe: Recipe, accuracies: Sequence[float | None], told: Sequence[str]
) -> None:
    (run,) = runs(recipe, 1, RunChoice("x", resume=False))
    logged(
        run.choice.open(run.recipe).path,
        *({"step": step, **evaluated(accuracy)} for step, accuracy in enumerate(accuracies)),
    )
    assert list(summary([run])) == told


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


def test_runs_that_were_killed_before_they_had_begun_are_begun(recipe: Recipe) -> None:
    """They left folders that hold no recipe yet."""
    for run in runs(recipe, 2, RunChoice("x", resume=False)):
        run.path.mkdir(parents=True)
        (run.path / ".rayignore").write_text("*")
    wanted = runs(recipe, 2, RunChoice("x", resume=False))
    wanted[0].choice.open(wanted[0].recipe)
    again = runs(recipe, 2, RunChoice("x", resume=True))
    assert [run.choice.resume for run in again] == [True, False]
    assert [run.choice.open(run.recipe).path.name for run in again] == ["x-seed5", "x-seed6"]


def test_a_name_that_is_empty_is_none(recipe: Recipe) -> None:
    """Of several runs as of one: it is not taken for one that was not given."""
    for run in (*runs(recipe, 2, RunChoice("", resume=False)), SeedRun(recipe, RunChoice("", False), Path())):
        with pytest.raises(UserError, match=r"--run: .*: letters, digits and"):
            run.choice.open(run.recipe)
