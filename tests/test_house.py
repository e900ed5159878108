"""The rooms keep to their layers, have one name each, and the command line starts light."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

WITHOUT_HEAVY_IMPORTS = """
import sys
from al_ray.cli.app import main
sys.argv = ["al-ray", *sys.argv[1:]]
try:
    main()
except SystemExit as exit:
    assert not exit.code, exit.code
heavy = {"torch", "ray", "vllm", "transformers"} & sys.modules.keys()
assert not heavy, heavy
"""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("room", ["actors", "algorithms", "envs"])
def test_a_room_imported_by_its_bare_name_is_refused_with_the_cure(room: str) -> None:
    """Or its classes would exist twice, and isinstance would fail between them."""
    done = run(sys.executable, "-c", f"import {room}")
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert f"import al_ray.{room}" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["validate", "recipes/calc_x_cpu.yaml"]]
)
def test_help_and_validate_import_neither_torch_nor_ray_nor_vllm(arguments: list[str]) -> None:
    """They answer in a fraction of a second."""
    done = run(sys.executable, "-c", WITHOUT_HEAVY_IMPORTS, *arguments)
    assert done.returncode == 0, done.stderr


def test_the_layers_and_the_rooms_table_hold() -> None:
    """The contracts in pyproject.toml, checked by import-linter over every module."""
    done = run(Path(sysconfig.get_path("scripts")) / "lint-imports", "--no-cache")
    assert done.returncode == 0, done.stdout


def test_the_messages_that_troubleshooting_tells_are_said_by_the_code() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rooms = (ROOT / room for room in ("al_ray", "actors", "algorithms"))
    code = "\n".join(path.read_text(encoding="utf-8") for room in rooms for path in room.rglob("*.py"))
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    assert len(messages) > 20
    assert [message for message in messages if message not in code] == []


def test_no_command_of_ours_ends_what_others_run_on_the_machine() -> None:
    """Processes are ended by their ids, never by a name or all at once."""
    places = ("Makefile", ".ci", "al_ray", "actors", "benchmarks", "deploy", "tools", "*.yaml")
    files = run("git", "ls-files", *places)
    paths = [ROOT / name for name in files.stdout.split()]
    texts = {path: path.read_text(errors="replace") for path in paths if path.is_file()}
    assert texts
    assert [path for path, text in texts.items() if re.search(r"pkill|killall|ray stop --force", text)] == []


@pytest.mark.parametrize("tool", ["recipe_reference", "metrics_reference", "grafana_dashboard"])
def test_a_page_that_a_tool_writes_says_what_the_code_says(tool: str) -> None:
    written = [sys.executable, "-c", f"import {tool} as tool; assert tool.page() == tool.PAGE.read_text()"]
    subprocess.run(written, cwd=ROOT / "tools", env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


PAGES = [ROOT / "AGENTS.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """From the project's root, as ``a/b.py`` or ``a/b/`` in a code span."""
    rooms = "al_ray|actors|algorithms|envs|tests|benchmarks|tools"
    named = re.findall(rf"`((?:{rooms})/[\w/.]*)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []
