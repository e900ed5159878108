"""``al-ray compare``, over recorded evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from al_ray.cli.comparing import compare
from al_ray.database.writer import Database
from al_ray.errors import UserError
from al_ray.recipe import loading
from al_ray.run.folder import RunFolder
from tests.support.runs import quiz
from tests.support.runs.recorded import record_samples

Samples = Mapping[str, list[tuple[float | None, list[str]]]]

FIRST: Samples = {"t1": [(1.0, ["2", "so 2"])], "t2": [(0.0, ["5", "so 5"])], "t3": [(None, [])]}
SECOND: Samples = {"t1": [(1.0, ["2", "so 2"])], "t2": [(1.0, ["5", "no, 4"])], "t3": [(1.0, ["6"])]}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``a``, evaluated at its start and after step 3, and ``b``, with a checkpoint of step 3, and ``c``, with
    other tasks."""
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    recipe = loading.load(quiz.write_recipe(tmp_path, quiz.recipe(tmp_path / "out")))
    _run(tmp_path, "a", {"eval/step-000000": SECOND, "eval/step-000003": FIRST}, 1)
    _run(tmp_path, "b", {"eval/step-000003": SECOND}, 2)
    _run(tmp_path, "c", {"eval/step-000000": {"u9": [(1.0, [])]}}, 1)
    checkpoint = RunFolder(tmp_path / "out" / "quiz" / "b").checkpoint(3)
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    return Path(recipe.output) / "quiz"


def _run(folder: Path, name: str, evaluations: Mapping[str, Samples], seed: int) -> None:
    recipe = loading.load(folder / "quiz.yaml", [f"seed={seed}"])
    database = Database(RunFolder.create(recipe, name).store_url)
    for batch, samples in evaluations.items():
        record_samples(database, batch, samples)
    database.close()


def test_the_last_evaluations_are_compared(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what the recipes differ in, the tasks that flipped, and where one of them parts."""
    compare(runs / "a", runs / "b", None)
    told = capsys.readouterr().out
    assert f"first   {runs}/a (step-000003)\nsecond  {runs}/b (step-000003)\n" in told.replace("\n/", "/")
    assert "their recipes differ in seed\n" in told
    assert "tasks that are not compared: 1 without a score in one of them" in told
    assert "tasks: 1 better, 0 worse, 1 equal; 1 newly solved, 0 no longer solved" in told
    assert "+0.5000" in told and "agresti-min" in told
    assert "task t2: call 2 is the first that differs" in told
    [line] = [line for line in told.splitlines() if "so 5" in line and "no, 4" in line]
    assert line.index("so 5") < 80 < line.index("no, 4") < 160, "side by side"


def test_a_checkpoint_means_the_evaluation_after_its_step(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(runs / "a", runs / "b" / "checkpoints" / "step-000003", "t1")
    assert "task t1: every call asks and says the same in both" in capsys.readouterr().out
    with pytest.raises(UserError, match="its run was evaluated after the steps 3; al-ray eval makes"):
        (runs / "b" / "checkpoints" / "step-000002").mkdir()
        (runs / "b" / "checkpoints" / "step-000002" / "config.json").write_text("{}")
        compare(runs / "a", runs / "b" / "checkpoints" / "step-000002", None)


def test_what_cannot_be_compared_is_told_with_the_reason(runs: Path) -> None:
    with pytest.raises(UserError, match="nothing can be compared: 3 only in the first, 1 only in the second"):
        compare(runs / "a", runs / "c", None)
    with pytest.raises(UserError, match="--task: 't3': is none of the tasks that both have a score of"):
        compare(runs / "a", runs / "b", "t3")
