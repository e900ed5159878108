"""Runs are found in whatever state their files are, and are read as they grow."""

from __future__ import annotations

import errno
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from al_ray.database.writer import Database
from al_ray.errors import UserError
from al_ray.recipe import Recipe
from al_ray.reports.jsonl_sink import JsonlSink
from al_ray.run.folder import RunFolder
from al_ray.types import RolloutRequest, Task
from al_ray.viewing import index as index_module
from al_ray.viewing.overview import overview, run_row
from al_ray.viewing.runs import Runs
from al_ray.viewing.site import Site
from tests.support.runs import toy
from tests.support.runs.viewed import write_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that has just been made: there is no store yet."""
    return RunFolder.create(Recipe.model_validate(toy.recipe(tmp_path / "model", tmp_path / "out")), "a")


def test_a_run_is_found_alone_and_among_others(folder: RunFolder) -> None:
    assert [run.name for run in Runs(folder.path).all()] == ["run"]
    for depth in (folder.path.parent, folder.path.parent.parent):
        [run] = Runs(depth).all()
        assert run.title == "toy/a" and Runs(depth).one(run.name).folder.path == folder.path


def test_a_copy_without_what_is_hidden_is_a_run_where_it_is_named_itself(
    folder: RunFolder, tmp_path: Path
) -> None:
    """Below a folder a recipe alone is none; then it is said what is missed."""
    copy = tmp_path / "copies" / "copy"
    copy.mkdir(parents=True)
    shutil.copy(folder.recipe_file, copy)
    assert [run.folder.path for run in Runs(copy).all()] == [copy]
    with pytest.raises(UserError, match=r"there is no run in it: .* recipe\.yaml and a \.rayignore"):
        Runs(copy.parent)


def test_a_run_that_is_made_anew_is_another_one(folder: RunFolder) -> None:
    """Nothing of the first is remembered."""
    runs = Runs(folder.path)
    [first] = runs.all()
    assert runs.all() == [first]
    recipe = folder.recipe_file.read_bytes()
    (folder.path / "kept").write_bytes(recipe)
    (folder.path / "kept").rename(folder.recipe_file)
    [second] = runs.all()
    assert second is not first


def test_a_run_without_a_store_is_listed_and_said_to_have_none(folder: RunFolder) -> None:
    [run] = Runs(folder.path).all()
    assert (run_row(run).state, run_row(run).step, run_row(run).steps) == ("stopped", 0, 5)
    with pytest.raises(UserError, match=r"store .*store\.sqlite.*no such file"):
        overview(run, everything=False)
    assert not (folder.path / "store.sqlite").exists(), "whoever looks makes nothing"


def test_a_store_of_another_version_is_said_in_a_line(folder: RunFolder) -> None:
    Database(folder.store_url).close()
    engine = sa.create_engine(folder.store_url)
    with engine.begin() as connection:
        connection.execute(sa.text("update meta set schema_version = 1"))
    [run] = Runs(folder.path).all()
    with pytest.raises(UserError, match="schema version 1': this al_ray reads version") as told:
        overview(run, everything=False)
    assert len(told.value.problems) == 1


def test_a_recipe_that_cannot_be_read_does_not_hide_the_other_runs(folder: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "out" / "toy" / "b"
    other.mkdir()
    (other / "recipe.yaml").write_text("nonsense: 1\n")
    (other / ".rayignore").touch()
    rows = {row.name: row for row in map(run_row, Runs(tmp_path / "out").all())}
    assert rows["toy/a"].error == "" and "nonsense" in rows["toy/b"].error


def test_metrics_that_cannot_be_read_do_not_hide_the_other_runs(folder: RunFolder, tmp_path: Path) -> None:
    """On the page of all; that of the run itself says what is wrong. A line without a time is one."""
    other, third = (RunFolder.create(folder.recipe(), name) for name in "bc")
    (third.path / "metrics.jsonl").mkdir()
    (folder.path / "metrics.jsonl").write_text('{"step": 1}\n')
    (other.path / "metrics.jsonl").write_text("half a li\n")
    Database(other.store_url).close()
    runs = Runs(tmp_path / "out")
    rows = {row.name: row for row in map(run_row, runs.all())}
    assert (rows["toy/a"].error, rows["toy/a"].step) == ("", 0)
    assert "metrics.jsonl, line 1: 'half a li': no line of metrics" in rows["toy/b"].error
    assert "metrics.jsonl': cannot be read: Is a directory" in rows["toy/c"].error
    assert "no line of metrics" in Site(runs).pages["/"]({})
    with pytest.raises(UserError, match="no line of metrics"):
        overview(runs.one("toy/b"), everything=False)


def test_a_placement_that_cannot_be_read_is_told_by_its_file(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the run's page, as every other file that is damaged or somebody else's."""
    Database(folder.store_url).close()
    for damaged in (b'{"layout"', b"\xff"):
        (folder.path / "placement.json").write_bytes(damaged)
        with pytest.raises(UserError, match=r"placement: '.*/toy/a/placement\.json': cannot be read: "):
            overview(Runs(folder.path).one("run"), everything=False)
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UserError, match=r"placement\.json': cannot be read: .*Permission denied"):
        folder.placement()


def refused(*_: Any) -> bytes:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_run_that_is_removed_while_runs_are_listed_does_not_hide_the_others(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it goes: its recipe is found, and then gone."""
    other = RunFolder.create(folder.recipe(), "b")
    runs, found = Runs(tmp_path / "out"), RunFolder.all_in(tmp_path / "out")
    monkeypatch.setattr(Path, "glob", lambda path, _: [folder.recipe_file, path / "gone" / "recipe.yaml"])
    assert [run.path for run in RunFolder.all_in(tmp_path / "out")] == [folder.path]
    shutil.rmtree(other.path)
    monkeypatch.setattr(RunFolder, "all_in", lambda path: found)
    assert [run.title for run in runs.all()] == ["toy/a"]


def test_an_evaluation_in_which_nothing_had_a_score_is_shown(folder: RunFolder) -> None:
    """Not the figure of the one before."""
    Database(folder.store_url).close()
    sink = JsonlSink(folder.path, None)
    sink.log(0, {"eval/accuracy": 0.5, "eval/stderr": 0.1, "eval/tasks": 4, "eval/failed": 0})
    sink.log(2, {"eval/accuracy": math.nan, "eval/stderr": math.nan, "eval/tasks": 0, "eval/failed": 4})
    sink.close(True)
    runs = Runs(folder.path)
    row, [first, second] = run_row(runs.one("run")), overview(runs.one("run"), everything=False).evaluations
    assert (first.accuracy, first.failed) == (0.5, 0)
    assert (second.accuracy, second.stderr, second.tasks, second.failed) == (None, None, 0, 4)
    assert (row.accuracy, row.failed) == (None, 4)
    assert "- <small>4 without a score</small>" in Site(runs).pages["/"]({})


def test_an_evaluation_alone_is_said_to_be_one_and_not_a_run_that_stopped(folder: RunFolder) -> None:
    """While it is under way it is called so. A run that was stopped after its first evaluation is none."""
    Database(folder.store_url).close()
    runs = Runs(folder.path)
    sink = JsonlSink(folder.path, None)
    sink.log(0, {"eval/accuracy": 0.5, "eval/stderr": 0.1, "eval/tasks": 4, "eval/failed": 0})
    sink.close(True)
    assert run_row(runs.one("run")).state == "stopped" and "0 / 5" in Site(runs).pages["/"]({})
    (folder.path / "evaluation.json").write_text("{}")
    assert run_row(runs.one("run")).state == "evaluated" and "0 / 5" not in Site(runs).pages["/"]({})
    assert "of 5 steps" not in Site(runs).pages["/run"]({"run": ["run"]})
    with folder.locked():
        assert run_row(runs.one("run")).state == "running" and "0 / 5" in Site(runs).pages["/"]({})


def test_a_run_that_stopped_before_its_last_evaluation_has_not_ended(folder: RunFolder) -> None:
    [run] = Runs(folder.path).all()
    sink = JsonlSink(folder.path, None)
    for step in range(run.steps):
        sink.log(step + 1, {"time/step": 1.0})
    assert (run_row(run).state, run_row(run).step) == ("stopped", 5)
    sink.log(run.steps, {"eval/accuracy": math.nan})
    sink.close(True)
    assert (run_row(run).state, run_row(run).step) == ("ended", 5)


def test_a_run_under_way_is_told_from_one_that_stopped_without_its_lock_being_tried(
    folder: RunFolder,
) -> None:
    [run] = Runs(folder.path).all()
    with folder.locked():
        assert run.is_under_way() is True
    assert run.is_under_way() is False


def test_a_run_whose_store_is_on_a_server_is_shown_alike(
    postgresql: str, tiny_model: Path, tmp_path: Path
) -> None:
    """Every page of it."""
    pages = {
        "/run": {},
        "/rollouts": {"text": ["2 + 2?"], "sort": ["reward"]},
        "/rollout": {"id": ["step-000003/0/1"]},
        "/group": {"batch": ["step-000003"], "group": ["step-000003/0"]},
        "/task": {"task": ["train-0"]},
    }
    shown = []
    for output, server in (("file", None), ("server", postgresql)):
        folder = write_run(tiny_model, tmp_path / output, server=server)
        site = Site(Runs(folder.path))
        texts = [site.pages[path]({"run": ["run"], **query}) for path, query in pages.items()]
        shown.append([re.sub(r"\d+ s (ago|old)", "", text).replace(str(folder.path), "") for text in texts])
    assert shown[0] == shown[1]


def test_a_search_for_a_text_counts_what_was_looked_at_and_says_so(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with a full page, or when it takes too long: then more may fit than were counted."""
    database = Database(folder.store_url)
    tasks = [Task(f"t{number}", {"question": f"{number}?"}) for number in range(450)]
    with database.begin() as connection:
        database.enqueue(connection, [RolloutRequest(task.id, "b", task.id, task) for task in tasks])
    site = Site(Runs(folder.path))

    def heading(text: str) -> str:
        page = site.pages["/rollouts"]({"run": ["run"], "text": [text]})
        return page.partition("<h1>Rollouts <small>")[2].partition("</small>")[0]

    assert heading("?") == "at least 200 of 450"
    assert heading("9?") == "45 of 450"
    assert heading("") == "450 of 450"
    monkeypatch.setattr(index_module, "_PATIENCE", 0.0)
    assert heading("?") == "at least 0 of 450"


def test_a_tokenizer_is_looked_for_until_there_is_one_and_outlives_its_checkpoint(
    folder: RunFolder, tiny_model: Path
) -> None:
    """The first checkpoint may come after the first look, and be pruned before the next."""
    [run] = Runs(folder.path).all()
    assert run.texts.texts([7]) == [" 7"] and "there is no tokenizer.json" in run.texts.missing
    checkpoint = folder.checkpoint(2)
    checkpoint.mkdir(parents=True)
    shutil.copy(tiny_model / "tokenizer.json", checkpoint)
    texts = run.texts
    assert texts.missing == ""
    shutil.rmtree(checkpoint)
    assert run.texts is texts and texts.texts([7]) != [" 7"]


def test_what_is_written_while_somebody_looks_is_seen(folder: RunFolder) -> None:
    database = Database(folder.store_url)
    [run] = Runs(folder.path).all()
    assert overview(run, everything=False).doing == ["no rollout has been asked for yet"]
    sink = JsonlSink(folder.path, None)
    sink.log(1, {"time/step": 1.0, "reward/mean": 0.5})
    with database.begin() as connection:
        database.enqueue(connection, [RolloutRequest("r", "step-000001", "g", Task("t", {}))])
    run.index._read_at = float("-inf")
    seen = overview(run, everything=False)
    assert seen.row.step == 1 and seen.row.reward == 0.5
    assert seen.doing[0].startswith("1 of 5 steps are done")
    assert seen.doing[1] == "batch step-000001: 0 of 1 rollouts have ended, 1 queued"
    sink.close(True)
    database.close()
