"""What is made ready before a run: told part by part, and how far it is where that is known."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from al_ray.recipe import NodeShape, Recipe
from al_ray.reports import console
from al_ray.reports.console import Console
from al_ray.run.folder import RunChoice
from al_ray.run.launch import start
from al_ray.run.launch.preparation import prepared
from tests.support.machines.processes import run_here
from tests.support.runs import quiz, toy

SERVICE = """
class Book:
    def __init__(self, path):
        pass

    def check(self):
        pass

    def build(self, progress):
        progress("passages", 1, 2)
        return "shelf/index"
"""


def test_an_index_is_told_by_its_service_with_how_far_it_is_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "TOLD_SECONDS", 0.0)
    phases: list[tuple[object, ...]] = []
    monkeypatch.setattr(console.Console, "phase", lambda _, *told: phases.append(told))
    (tmp_path / "shelf.py").write_text(SERVICE)
    quiz.write_recipe(tmp_path, quiz.recipe(tmp_path) | {"services": {"book": {"run": "shelf:Book"}}})
    code, told = run_here(["index", "quiz.yaml"], tmp_path)
    assert code == 0, told
    assert "start       index of book: " in told and "book: shelf/index" in told
    assert ("passages", 1, 2) in phases


SERVICES = """
import sys

class Service:
    def __init__(self, path, kind):
        if kind == "raises":
            raise ValueError("no index")
        if kind == "exits":
            sys.exit("no key")
        self.kind = kind

    def check(self):
        if self.kind == "fails":
            raise RuntimeError("too old")

    async def start(self): ...
    async def answer(self, question): ...
    async def probe(self): ...

class Half:
    def __init__(self, path):
        self.check = 3

    async def answer(self, question): ...
"""


def test_a_service_of_the_users_own_that_fails_is_told_by_its_place(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether as it is made or as it is checked; of those that could be made, all at once."""
    monkeypatch.delitem(sys.modules, "own_services", raising=False)
    (tmp_path / "own_services.py").write_text(SERVICES)
    toy.write_code(tmp_path)

    def told(**services: object) -> list[str]:
        toy.write_recipe(tmp_path, toy.recipe(tiny_model, tmp_path / "out") | {"services": services})
        code, output = run_here(["validate", "toy.yaml"], tmp_path)
        assert code == 2, output
        return output.splitlines()

    for kind, line, cause in (("raises", 7, "ValueError: no index"), ("exits", 9, "SystemExit: no key")):
        assert told(own={"run": "own_services:Service", "options": {"kind": kind}}) == [
            f"error: services.own.run: 'own_services:Service': cannot be made: {cause} "
            f"({tmp_path}/own_services.py, line {line})"
        ]
    fails = {"run": "own_services:Service", "options": {"kind": "fails"}}
    assert told(a=fails, b={"run": "own_services:Half"}, c=fails | {"options": {"kind": "well"}}) == [
        "error: services.a.run: 'own_services:Service': failed in check: RuntimeError: too old "
        f"({tmp_path}/own_services.py, line 14)",
        "error: services.b.run: 'own_services:Half': is no Service (al_ray.protocols): "
        "it has no check, start, probe",
    ]


def test_an_agent_that_runs_in_processes_is_imported_in_one(tmp_path: Path, tiny_model: Path) -> None:
    """It may read its endpoint there; what it cannot import is told with the other problems."""
    toy.write_code(tmp_path)
    recipe = toy.recipe(tiny_model, tmp_path / "out")
    recipe["agent"] |= {"isolation": "process", "run": "reading_toy_agent:solve"}
    toy.write_recipe(tmp_path, recipe)
    good = "import os\nMODEL = os.environ['OPENAI_MODEL']\ndef solve(task): return 1.0\n"
    for source, expected in (("import absent_package\n", 2), (good, 0)):
        (tmp_path / "reading_toy_agent.py").write_text(source)
        code, told = run_here(["validate", "toy.yaml"], tmp_path)
        assert code == expected, told
        assert ("agent.run: 'reading_toy_agent:solve': " in told) is bool(expected)


def test_an_image_in_whose_place_bubblewrap_shows_this_machine_is_warned_of(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a run starts, and by ``validate``; not where it is a folder."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "bwrap").write_text("#!/bin/sh\n")
    (programs / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    toy.write_code(tmp_path)
    content = toy.recipe(tiny_model, tmp_path / "out")
    del content["agent"]["run"]
    for image, is_warned_of in (("python:3.12-slim", True), (str(tmp_path), False)):
        walled = {"folder": str(programs), "sandbox": {"image": image}}
        content["agent"] |= {"isolation": "command", "command": ["python3"], **walled}
        toy.write_recipe(tmp_path, content)
        code, told = run_here(["validate", "toy.yaml"], tmp_path)
        assert code == 0, told
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            said = io.StringIO()
            recipe = Recipe.model_validate(content)
            with prepared(recipe, RunChoice(str(is_warned_of), False), Console(said), learn=False):
                pass
        warning = f"warning: agent.sandbox.image: {image!r} is not used"
        assert [warning in each for each in (told, said.getvalue())] == [is_warned_of] * 2


async def test_a_driver_that_is_refused_a_run_under_way_does_not_tell_where_that_ones_parts_are(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts them does: by then it has the run's lock."""
    toy.write_code(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = Recipe.model_validate(toy.recipe(tiny_model, tmp_path / "out"))
    said = Console(io.StringIO())

    def placed(*_: Any) -> None:
        raise ZeroDivisionError  # nothing is started here

    monkeypatch.setattr(start, "Placement", placed)
    with prepared(recipe, RunChoice("a", False), said, learn=True) as ready, ready.folder.locked():
        with pytest.raises(ZeroDivisionError):
            async with start.started(ready, said):
                pass
        first = ready.folder.placement()
        assert first is not None
        monkeypatch.setattr("al_ray.run.launch.preparation.this_machine", lambda: [NodeShape(cpus=64)])
        with prepared(recipe, RunChoice("a", True), said, learn=True):
            pass
        assert ready.folder.placement() == first
