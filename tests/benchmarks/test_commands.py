"""Every benchmark runs as a module from the root, and the table names it."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning import decision_process

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
OF_A_PEER = {"peers.agentlightning_store", "peers.trl_update"}
"""Imports packages that only the peer's environment has."""
MODULES = {f"{path.parent.name}.{path.stem}" for path in BENCHMARKS.glob("[!.]*/[!_]*.py")}
HELPERS = {name for name in MODULES if name.startswith(("agents.", "peers."))} - OF_A_PEER
NAMES = MODULES - HELPERS - OF_A_PEER


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
    modules = [*BENCHMARKS.glob("[!.]*/[!_]*.py")]
    siblings = "|".join(path.stem for path in modules)
    bare = re.compile(rf"^\s*(from|import) ({siblings})\b", re.MULTILINE)
    assert [path.name for path in modules if bare.search(path.read_text())] == []


def test_the_table_names_every_benchmark_and_the_page_every_helper() -> None:
    page = (BENCHMARKS / "README.md").read_text()
    assert set(re.findall(r"^\| `python -m benchmarks\.([\w.]+)", page, re.MULTILINE)) == NAMES
    assert list(BENCHMARKS.glob("[!_]*.py")) == []  # each is in a room
    helpers = {name.partition(".")[2] for name in HELPERS | OF_A_PEER}
    assert {name for name in helpers if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("process", decision_process.PROCESSES, ids=lambda process: process.name)
def test_the_values_of_a_known_decision_process_are_what_episodes_earn(
    process: decision_process.Process,
) -> None:
    """Of a policy that answers at random but for the second call, and by what is left after each call."""
    chances = np.full((4, 6, 2, decision_process.VOCABULARY), 0.0)
    chances[..., : decision_process.TOKENS] = 1 / decision_process.TOKENS
    chances[:, decision_process.KEY] *= 0.5
    for task in range(4):
        right = decision_process.is_right(task)
        chances[task, decision_process.KEY][:, right] += 0.5 / right.sum()
    policy = decision_process.Policy(chances, process)
    draw = np.random.default_rng(0)
    episodes = [decision_process.rollout(policy, i % 4, str(i), draw) for i in range(4000)]
    earned = np.array([episode.reward for episode in episodes])
    error = earned.std() / len(earned) ** 0.5
    assert abs(earned.mean() - policy.expected_return) < 4 * error
    gains = np.array([decision_process.true_advantages(policy, episode) for episode in episodes])
    group = [episode for episode in episodes if episode.task_id == "0"][:2]
    found = decision_process.measured_advantages(policy, group, 4000, draw)
    np.testing.assert_allclose(found, [decision_process.true_advantages(policy, e) for e in group], atol=0.05)
    # What calls contributed and what was expected before the first come to what was earned.
    np.testing.assert_allclose(gains.sum(1) + policy.expected_return, earned, atol=1e-9)
    assert (np.abs(gains.mean(0)) < 4 * gains.std(0) / len(gains) ** 0.5 + 1e-12).all()
