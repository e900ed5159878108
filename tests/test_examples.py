"""What the README shows is what is there, and runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from examples.cli_agent import agent as cli_agent
from tests.support.machines.bubblewrap import NOT_HERE, builds_walls

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "own_agent"


def test_the_agent_in_the_readme_is_the_agent_of_the_example() -> None:
    code = (EXAMPLE / "my_agent.py").read_text(encoding="utf-8").split("\n", 2)[2]
    assert f"```python\n{code}```" in (ROOT / "README.md").read_text(encoding="utf-8")


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
