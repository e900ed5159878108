"""A run folder is made once, found again, and holds whatever its run needs to go on."""

from __future__ import annotations

import errno
import io
import itertools
import os
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from al_ray.cli.comparing import list_runs
from al_ray.database.writer import Database
from al_ray.errors import UserError
from al_ray.recipe import Recipe, StoreSection
from al_ray.run import folder as run_folder
from al_ray.run.folder import RunFolder, is_checkpoint, recipe_at, recipe_of
from al_ray.viewing.runs import Runs
from tests.support.machines.processes import files_up_to
from tests.support.runs import toy

OF_THE_SYSTEM = {
    *("mkdir", "chmod", "open", "write", "close", "__exit__", "fsync", "replace", "rename", "unlink", "rmdir")
}
"""Functions of Python's that change what is on the disk."""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    content = toy.recipe(tmp_path / "model", tmp_path / "out")
    content["model"]["chat_template"] = str(tmp_path / "x.jinja")
    (tmp_path / "x.jinja").write_text("{{ messages }}")
    return Recipe.model_validate(content)


def changed(recipe: Recipe, **values: object) -> Recipe:
    return recipe.model_copy(update=values)


def test_a_run_is_made_once(recipe: Recipe, tmp_path: Path) -> None:
    folder = RunFolder.create(recipe, "a")
    assert folder.path == tmp_path / "out" / "toy" / "a"
    with pytest.raises(UserError, match="this run exists; give another --run, or --resume"):
        RunFolder.create(recipe, "a")


def test_a_run_is_its_owners_alone(recipe: Recipe) -> None:
    """Its store holds the keys of attempts under way."""
    assert RunFolder.create(recipe, "a").path.stat().st_mode & 0o777 == 0o700


def test_a_run_whose_driver_is_killed_at_any_moment_of_its_beginning_can_be_begun_or_resumed(
    recipe: Recipe, tmp_path: Path
) -> None:
    """With its own recipe and rows, under its own name."""
    for moment in itertools.count():
        ours = changed(recipe, output=str(tmp_path / f"out{moment}"))
        killed = killed_at(moment, lambda ours=ours: RunFolder.create(ours, "a").require_tasks("digest"))
        try:
            folder = RunFolder.resume(ours, "a")
        except UserError as error:
            assert "there is no such run" in str(error)
            folder = RunFolder.create(ours, "a")
        assert folder.recipe_file.parent == tmp_path / f"out{moment}" / "toy" / "a"
        assert RunFolder.resume(ours, "a") == folder
        folder.require_tasks("digest")
        if not killed:
            break
    assert moment > 10


def test_a_run_whose_driver_is_killed_as_it_removes_checkpoints_has_none_of_them_in_part(
    recipe: Recipe,
) -> None:
    """And what is left is removed with the next."""
    folder = RunFolder.create(recipe, "a")
    for moment in itertools.count():
        for step in (1, 2, 3):
            for name in ("model.safetensors", "resume/state.pt"):
                file = folder.checkpoint(step) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        killed = killed_at(moment, lambda: folder.prune_checkpoints(1))
        for step in folder.checkpoints():
            assert len([*folder.checkpoint(step).rglob("*")]) == 3
        if not killed:
            break
        folder.prune_checkpoints(1)
        assert [each.name for each in (folder.path / "checkpoints").iterdir()] == ["step-000003"]
    assert moment > 4


def test_an_old_checkpoint_that_cannot_be_removed_yet_counts_no_more_and_is_removed_with_the_next(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS keeps a file, under a name of its own, that somebody has open: the folder is not empty."""
    folder = RunFolder.create(recipe, "a")
    for step in (1, 2):
        folder.checkpoint(step).mkdir(parents=True)
        (folder.checkpoint(step) / "model.safetensors").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", not_empty)
        folder.prune_checkpoints(1)
        assert folder.checkpoints() == [2]
    folder.checkpoint(3).mkdir()
    folder.prune_checkpoints(1)
    assert [each.name for each in (folder.path / "checkpoints").iterdir()] == ["step-000003"]


def not_empty(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOTEMPTY, "Directory not empty")


def killed_at(moment: int, work: Callable[[], object]) -> bool:
    """Whether a process of its own that does the work is killed before it calls the system for the
    ``moment``th time: it may have ended before."""
    if (child := os.fork()) == 0:
        calls = itertools.count()

        def on_call(_: Any, event: str, function: Any) -> None:
            if event != "c_call" or function.__name__ not in OF_THE_SYSTEM:
                return
            in_memory = isinstance(function.__self__, io.StringIO)
            if not in_memory and next(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(on_call)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_place_that_cannot_be_written_is_named_with_the_reason_and_nothing_is_left(
    recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output: '.*file/toy/a': cannot be written: Not a directory"):
        RunFolder.create(changed(recipe, output=str(tmp_path / "file")), "a")
    told = "cannot be written: File too large; --set output=FOLDER"
    with files_up_to(64), pytest.raises(UserError, match=told):  # less than a recipe has
        RunFolder.create(recipe, "a")
    assert not (Path(recipe.output) / recipe.name / "a").exists()


@pytest.mark.parametrize("failing", ["chmod", "locked"])
def test_a_driver_that_cannot_make_its_folder_leaves_the_run_that_another_has_begun_there_meanwhile(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Both take the same name, as those do that start within a second."""
    looked = RunFolder.is_free
    under_way: list[RunFolder] = []

    def other_is_faster(folder: RunFolder) -> bool:
        free = looked(folder)
        monkeypatch.setattr(RunFolder, "is_free", looked)
        under_way.append(RunFolder.create(recipe, "a"))
        (folder.path / "store.sqlite").touch()
        monkeypatch.setattr(Path if failing == "chmod" else RunFolder, failing, stale)
        return free

    def stale(*_: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(RunFolder, "is_free", other_is_faster)
    with pytest.raises(UserError, match="cannot be written: Stale file handle"):
        RunFolder.create(recipe, "a")
    assert (under_way[0].path / "store.sqlite").exists() and under_way[0].recipe().name == recipe.name


@pytest.mark.parametrize("odd", ["does it learn?", "a%20b", "50%", "a#b@c:d&e+f [é]"])
def test_the_store_of_a_run_lies_in_its_folder_whatever_that_is_called(
    recipe: Recipe, tmp_path: Path, odd: str
) -> None:
    """Also where its name has what a URL has for itself: no two runs share one."""
    for name in ("a", "b"):
        folder = RunFolder.create(changed(recipe, output=str(tmp_path / odd)), name)
        Database(folder.store_url).close()
        assert (folder.path / "store.sqlite").is_file()


def test_runs_are_not_uploaded_with_a_job(recipe: Recipe, tmp_path: Path) -> None:
    """Or the second one, submitted from where the first left its runs, takes their stores and checkpoints."""
    from ray._private.runtime_env.packaging import create_package

    project = tmp_path / "project"
    project.mkdir()
    (project / "agent.py").write_text("code")
    folder = RunFolder.create(changed(recipe, output=str(project / "outputs")), "a")
    (folder.path / "checkpoints").mkdir()
    for name in ("store.sqlite", "checkpoints/weights.safetensors"):
        (folder.path / name).write_bytes(b"large")
    create_package(str(project), tmp_path / "package.zip", include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        uploaded = [name for name in package.namelist() if not name.endswith("/")]
    assert uploaded == ["agent.py"]


def test_an_output_that_goes_with_the_job_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A job runs in Ray's cache of what was uploaded, where a relative folder lies."""
    unpacked = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    unpacked.mkdir(parents=True)
    run_folder.require_lasting("outputs")
    with pytest.raises(UserError, match=r"output: 'outputs': lies in Ray's cache .*--set output=/ABSOLUTE"):
        run_folder.require_lasting("outputs", of_a_job=True)
    run_folder.require_lasting("/outputs", of_a_job=True)
    monkeypatch.chdir(unpacked)
    with pytest.raises(UserError, match=r"output: 'outputs': lies in Ray's cache .*--set output=/ABSOLUTE"):
        run_folder.require_lasting("outputs")
    run_folder.require_lasting(str(tmp_path / "outputs"))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "*", "-x"])
def test_a_name_that_leads_elsewhere_is_refused(recipe: Recipe, tmp_path: Path, name: str) -> None:
    for use in (RunFolder.create, RunFolder.resume):
        with pytest.raises(UserError, match=r"--run: .*: letters, digits"):
            use(recipe, name)
    assert not (tmp_path / "out").exists()


def test_resuming_goes_on_with_the_named_run_or_the_one_started_last(recipe: Recipe) -> None:
    first, second = RunFolder.create(recipe, "b"), RunFolder.create(recipe, "a")
    os.utime(first.path / "recipe.yaml", (1, 1))
    (first.path / "written-later").touch()
    assert RunFolder.resume(recipe, None) == second
    assert RunFolder.resume(recipe, "b") == first
    with pytest.raises(UserError, match="out/toy/c': there is no such run"):
        RunFolder.resume(recipe, "c")


def test_a_run_whose_rows_have_changed_is_not_resumed(recipe: Recipe) -> None:
    """Its steps would be of other tasks than those that were asked for before."""
    folder = RunFolder.create(recipe, "a")
    folder.require_tasks("digest")
    folder.require_tasks("digest")
    with pytest.raises(UserError, match="the rows have changed since this run was started"):
        folder.require_tasks("another")


@pytest.mark.parametrize("left", [None, b"", b"no store" * 1024])
def test_a_run_that_has_lost_its_records_is_not_resumed(recipe: Recipe, left: bytes | None) -> None:
    """Its curriculum would begin anew, and earlier evaluations would be made again by the weights of now.
    Without a checkpoint it begins anew itself."""
    folder = RunFolder.create(recipe, "a")
    assert RunFolder.resume(recipe, "a") == folder
    store = folder.path / "store.sqlite"
    folder.checkpoint(2).mkdir(parents=True)
    if left is not None:
        store.write_bytes(left)
    with pytest.raises(UserError, match="bring its store back, or start a new run"):
        RunFolder.resume(recipe, "a")
    store.unlink(missing_ok=True)
    Database(folder.store_url).close()
    assert RunFolder.resume(recipe, "a") == folder


def test_resuming_another_recipe_is_refused_with_every_difference(recipe: Recipe) -> None:
    RunFolder.create(recipe, "a")
    longer = recipe.model_copy(update={"model": recipe.model.model_copy(update={"max_length": 64})})
    with pytest.raises(UserError) as caught:
        RunFolder.resume(changed(longer, seed=3), None)
    assert [problem.where for problem in caught.value.problems] == ["seed", "model.max_length"]
    smaller = recipe.engines.model_copy(update={"gpu_memory": 0.1})
    assert RunFolder.resume(changed(recipe, engines=smaller), None)


def test_a_run_keeps_its_template_and_is_resumed_with_an_equal_one_from_elsewhere(
    recipe: Recipe, tmp_path: Path
) -> None:
    """As a job finds the recipe in another folder each time, and a checkpoint is evaluated later."""
    folder = RunFolder.create(recipe, "a")
    (tmp_path / "x.jinja").rename(tmp_path / "y.jinja")
    kept = folder.recipe().model.chat_template
    assert kept == str(folder.path / "chat_template.jinja")
    assert Path(kept).read_text() == "{{ messages }}"
    moved = recipe.model.model_copy(update={"chat_template": str(tmp_path / "y.jinja")})
    assert RunFolder.resume(changed(recipe, model=moved), None) == folder
    (tmp_path / "y.jinja").write_text("{{ other }}")
    with pytest.raises(UserError, match=r"model.chat_template: .*y.jinja"):
        RunFolder.resume(changed(recipe, model=moved), None)


def test_a_run_is_under_way_in_one_process_at_a_time(recipe: Recipe) -> None:
    folder = RunFolder.create(recipe, "a")
    under_way = pytest.raises(UserError, match="another process has this run under way")
    with folder.locked(), under_way, folder.locked():
        raise AssertionError("never reached")
    with folder.locked():
        pass


def test_a_run_that_cannot_be_written_is_told_as_such(recipe: Recipe) -> None:
    """On read-only media, or another user's; here its lock is none."""
    folder = RunFolder.create(recipe, "a")
    (folder.path / ".lock").unlink()
    (folder.path / ".lock").mkdir()
    with pytest.raises(UserError, match="a': cannot be written: Is a directory; copy it"), folder.locked():
        pass


def test_an_error_inside_the_lock_stays_itself(recipe: Recipe) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder.create(recipe, "a").locked():
        _ = 1 / 0


def test_a_place_that_cannot_be_looked_at_is_told_as_such(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one below somebody else's folder. Root may look anywhere, so it is the system here that refuses."""
    theirs = changed(recipe, output=str(tmp_path / "theirs"))
    there = RunFolder.create(theirs, "a").path

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(there))

    for function in ("listdir", "scandir", "stat"):
        monkeypatch.setattr(os, function, refused)
    looks: tuple[Callable[[], object], ...] = (
        lambda: RunFolder.create(theirs, "a"),
        lambda: RunFolder.resume(theirs, "a"),
        lambda: RunFolder.open(there),
        lambda: RunFolder.newest(there),
        lambda: is_checkpoint(there),
        lambda: recipe_at(there),
        lambda: recipe_of(there),
        lambda: list_runs(there),
        lambda: Runs(there),
    )
    for look in looks:
        with pytest.raises(UserError, match=r"theirs/toy/a': cannot be looked at: Permission denied; name "):
            look()


def test_a_name_that_the_disk_does_not_take_is_refused(recipe: Recipe) -> None:
    RunFolder.create(recipe, "a")
    with pytest.raises(UserError, match="cannot be looked at: File name too long"):
        RunFolder.create(recipe, "a" * 300)


def test_what_has_no_recipe_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run folder: it has no recipe\.yaml"):
        RunFolder.open(tmp_path)


def test_only_whole_checkpoints_count_and_the_newest_are_kept(recipe: Recipe) -> None:
    folder = RunFolder.create(recipe, "a")
    assert folder.checkpoints() == []
    for step in (2, 10, 9):
        folder.checkpoint(step).mkdir(parents=True)
    (folder.path / "checkpoints" / ".step-000011.partial").mkdir()
    assert folder.checkpoints() == [2, 9, 10]
    folder.prune_checkpoints(2)
    assert folder.checkpoints() == [9, 10]
    assert folder.checkpoint(10).is_absolute()


def test_the_recipe_of_a_checkpoint_is_its_runs(recipe: Recipe) -> None:
    folder = RunFolder.create(recipe, "a")
    checkpoint = folder.checkpoint(2)
    checkpoint.mkdir(parents=True)
    with pytest.raises(UserError, match="no checkpoint of a run"):
        recipe_of(checkpoint)
    (checkpoint / "config.json").write_text("{}")
    assert recipe_of(checkpoint) == folder.path / "recipe.yaml"
    assert recipe_at(checkpoint) == recipe_at(folder.recipe_file) == folder.path / "recipe.yaml"
    link, copy = folder.path / "best", checkpoint.with_name("best")
    link.symlink_to(checkpoint)
    shutil.copytree(checkpoint, copy)
    assert recipe_of(link) == folder.path / "recipe.yaml"
    with pytest.raises(UserError, match="best': no checkpoint of a run"):
        recipe_of(copy)


def test_each_run_on_a_server_has_a_schema_of_its_own_that_it_goes_on_with(recipe: Recipe) -> None:
    """Also one that is started anew under the name of one that was removed."""
    recipe = changed(recipe, store=StoreSection(url="postgresql://me@host/db"))
    first = RunFolder.create(recipe, "a").store_url
    assert first.startswith("postgresql://me@host/db?schema=toy_a_")
    assert RunFolder.resume(recipe, "a").store_url == first
    shutil.rmtree(RunFolder.resume(recipe, "a").path)
    assert RunFolder.create(recipe, "a").store_url != first
