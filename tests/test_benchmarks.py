"""Every benchmark runs as a module from the root, and the table names it."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
HELPERS = {"memory", "soak_agent", "store_load", "update_load", "waiting_agents"}
OF_A_PEER = {"agentlightning_store", "trl_update"}
"""Imports packages that only the peer's environment has."""
NAMES = {path.stem for path in BENCHMARKS.glob("*.py")} - {"__init__"} - HELPERS - OF_A_PEER


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_benchmark_answers_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``python -m`` runs it, without another process that imports Ray again."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")


@pytest.mark.parametrize("name", sorted(HELPERS))
def test_a_helper_imports(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


def test_no_module_imports_a_sibling_by_its_bare_name() -> None:
    """Or it would run only as a file; also that of the peer, which cannot be imported here."""
    siblings = "|".join(path.stem for path in BENCHMARKS.glob("*.py"))
    bare = re.compile(rf"^\s*(from|import) ({siblings})\b", re.MULTILINE)
    assert [path.name for path in BENCHMARKS.glob("*.py") if bare.search(path.read_text())] == []


def test_the_table_names_every_benchmark_and_the_page_every_helper() -> None:
    page = (BENCHMARKS / "README.md").read_text()
    assert set(re.findall(r"^\| `python -m benchmarks\.(\w+)", page, re.MULTILINE)) == NAMES
    assert {name for name in HELPERS | OF_A_PEER if f"`{name}`" not in page} == set()
