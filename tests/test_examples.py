"""What the README and the pages show is what is there, and runs."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from al_ray.cli.app import app
from examples.cli_agent import agent as cli_agent
from tests.support.machines.bubblewrap import NOT_HERE, builds_walls

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "own_agent"


def test_the_agent_in_the_readme_is_the_agent_of_the_example() -> None:
    code = (EXAMPLE / "my_agent.py").read_text(encoding="utf-8").split("\n", 2)[2]
    assert f"```python\n{code}```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `al-ray (\w+)", readme, re.MULTILINE)
    assert set(told) == typer.main.get_group(app).commands.keys()


def test_the_loader_that_is_shown_loads_as_it_stands(tmp_path: Path) -> None:
    """In a module beside its samples."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def load" in block]
    (tmp_path / "samples").mkdir()
    rows = (
        '{"id": "a", "question": "2 + 2?", "answer": "4"}\n{"id": "b", "question": "long?", "answer": "4"}\n'
    )
    (tmp_path / "samples" / "train.jsonl").write_text(rows.replace("long", "long" * 300))
    (tmp_path / "my_data.py").write_text(code)
    module = runpy.run_path(str(tmp_path / "my_data.py"))
    found = module["load"](None, "train")
    assert [task.id for task in found.tasks] == ["a"]
    assert found.left_out == {"longer than 1000 characters": 1}


def test_the_program_that_a_coding_agent_mends_may_print_what_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the model's own."""
    monkeypatch.setattr(cli_agent, "PLACE", tmp_path)
    (tmp_path / "program.py").write_text("import os\nos.write(1, b'\\xff\\n')\nf = abs\n")
    assert cli_agent.passed([([1], 1), ([2], 3)]) == 0.5


@pytest.mark.parametrize(
    ("name", "program", "tasks"),
    [
        ("own_agent", "python3", "64 tasks to train on, 32 held out"),
        ("node_agent", "node", "64 tasks to train on, 32 held out"),
        ("cli_agent", "bwrap", "36 tasks to train on, 8 held out"),
        ("coding_agent", "bwrap", "48 tasks to train on, 12 held out"),
    ],
)
def test_the_recipe_of_an_example_is_valid_where_the_readme_runs_it(
    name: str, program: str, tasks: str
) -> None:
    """At the repository's root, with what is there importable as for who has just cloned it."""
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} here")
    if program == "bwrap" and not builds_walls():
        pytest.skip(NOT_HERE)
    unset = ("AL_RAY_DATA", "PYTHONPATH")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    command = [sys.executable, "-m", "al_ray", "validate", f"recipes/{name}.yaml"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tasks in done.stdout
