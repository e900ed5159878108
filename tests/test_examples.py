"""What the README shows is what is there, and runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "own_agent"


def test_the_agent_in_the_readme_is_the_agent_of_the_example() -> None:
    code = (EXAMPLE / "my_agent.py").read_text(encoding="utf-8").split("\n", 2)[2]
    assert f"```python\n{code}```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_recipe_of_ones_own_agent_is_valid_where_it_stands() -> None:
    """The agent beside it is importable, as it is for who has just written one."""
    environment = {name: value for name, value in os.environ.items() if name != "AL_RAY_DATA"}
    command = [sys.executable, "-m", "al_ray", "validate", "recipe.yaml"]
    paths = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=EXAMPLE, env=environment | paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "64 tasks to train on, 32 held out" in done.stdout
