"""What ``al-ray init`` writes runs as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from al_ray.errors import UserError
from al_ray.recipe import loading
from al_ray.run.starter.project import FRAMEWORKS, missing, write
from tests.support.machines.processes import ROOT, run


@pytest.mark.parametrize("framework", ["plain", "langgraph", "openai-agents", "command"])
def test_its_own_test_passes(tmp_path: Path, framework: str) -> None:
    """Which tries a task with the recipe and a model that is served."""
    write(tmp_path / "mine", framework)
    assert not missing(framework)
    code, told = run(["pytest", "-q", "-p", "no:cacheprovider"], tmp_path / "mine")
    assert code == 0 and "3 passed" in told, told


def test_its_recipe_is_valid_and_nothing_of_it_is_left_for_git(tmp_path: Path) -> None:
    """Of the framework too that is installed in an environment of its own, whose agent can be compiled."""
    for framework in FRAMEWORKS:
        folder = tmp_path / framework
        files = write(folder, framework)
        assert {file.name for file in files} == {file.name for file in folder.iterdir()}
        for file in files:
            text = file.read_text(encoding="utf-8")
            assert "@NAME@" not in text and "@AGENT@" not in text
            if file.suffix == ".py":
                compile(text, file, "exec")
    command = [sys.executable, "-c", _CHECKED, "autogen.yaml"]
    done = subprocess.run(
        command, cwd=tmp_path / "autogen", env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "process 64 16\n", done.stderr


_CHECKED = """
import sys; sys.path.insert(0, "")
from pathlib import Path
from al_ray.data.tasks import load_tasks
from al_ray.recipe import loading
recipe = loading.load(Path(sys.argv[1]))
tasks = load_tasks(recipe)
print(recipe.agent.isolation, len(tasks.train), len(tasks.held_out))
"""


@pytest.mark.parametrize("name", ["2024", "007", "1.5", "1e3", "on", "null", "é", "a.b"])
def test_a_project_is_called_as_its_folder_also_where_yaml_has_another_reading_of_that(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number, a truth value or nothing."""
    write(tmp_path / name, "command")
    monkeypatch.syspath_prepend(tmp_path / name)
    assert loading.load(tmp_path / name / f"{name}.yaml").name == name


def test_what_cannot_be_begun_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine", "plain")
    with pytest.raises(UserError, match="is there already, and not empty"):
        write(tmp_path / "mine", "plain")
    with pytest.raises(UserError, match="--framework: 'crewai': one of plain, langgraph, openai-agents"):
        write(tmp_path / "other", "crewai")
    with pytest.raises(UserError, match=r"letters, digits and _\.- are allowed"):
        write(tmp_path / "my agent", "plain")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"NAME: '.*/file/x': cannot be written: Not a directory"):
        write(tmp_path / "file" / "x", "plain")
