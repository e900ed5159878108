"""What the README shows is what is there, and runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "own_agent"
IN_NODE = ROOT / "examples" / "node_agent"


def test_the_agent_in_the_readme_is_the_agent_of_the_example() -> None:
    code = (EXAMPLE / "my_agent.py").read_text(encoding="utf-8").split("\n", 2)[2]
    assert f"```python\n{code}```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_recipe_of_ones_own_agent_is_valid_where_it_stands() -> None:
    """The agent beside it is importable, as it is for who has just written one."""
    assert "64 tasks to train on, 32 held out" in validated(EXAMPLE)


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here")
def test_the_recipe_of_an_agent_in_node_is_valid_where_it_stands() -> None:
    assert "64 tasks to train on, 32 held out" in validated(IN_NODE, EXAMPLE)


def validated(folder: Path, *paths: Path) -> str:
    """What is said of the recipe in ``folder``."""
    environment = {name: value for name, value in os.environ.items() if name != "AL_RAY_DATA"}
    command = [sys.executable, "-m", "al_ray", "validate", "recipe.yaml"]
    variables = environment | {"PYTHONPATH": os.pathsep.join(map(str, [ROOT, *paths]))}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
