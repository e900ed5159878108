"""An agent's own interpreter: a virtual environment made once, whose packages are not ours."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import threading
import zipfile
from pathlib import Path

import pytest

from al_ray.actors.agent import interpreter
from al_ray.errors import RecipeError
from al_ray.recipe import AgentSection

RUN = "al_ray_pinned:act"


def wheel(folder: Path, version: str) -> str:
    """Of a package ``al_ray_pinned`` that knows its version, as a requirement."""
    path = folder / f"al_ray_pinned-{version}-py3-none-any.whl"
    info = f"al_ray_pinned-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("al_ray_pinned.py", f"version = {version}\n\ndef act(task): return version\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: al_ray_pinned\nVersion: {version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return f"al_ray_pinned @ file://{path}"


def section(requirements: list[str] | str | None, run: str = RUN, python: str | None = None) -> AgentSection:
    return AgentSection(run=run, isolation="process", requirements=requirements, python=python)


def imported(agent: AgentSection) -> None:
    interpreter.check(agent, "toy", ["search"])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``AL_RAY_HOME``; and the uv that is installed beside our Python is found, for pip takes
    seconds of computing."""
    monkeypatch.setenv("AL_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "home"


def version(python: str) -> str:
    command = [python, "-c", "import al_ray_pinned; print(al_ray_pinned.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_each_set_of_requirements_has_an_environment_of_its_own(tmp_path: Path) -> None:
    """As a list or as a file; and it holds nothing of ours."""
    one = interpreter.interpreter(section([wheel(tmp_path, "1.0")]))
    (tmp_path / "requirements.txt").write_text(wheel(tmp_path, "2.0"))
    two = interpreter.interpreter(section(str(tmp_path / "requirements.txt")))
    assert (version(one), version(two)) == ("1.0", "2.0")
    assert subprocess.run([one, "-c", "import pydantic"], capture_output=True, check=False).returncode == 1


def test_requirements_that_say_the_same_of_other_files_have_environments_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two projects, say, or when an included file has changed; a copy that says all itself shares one."""
    monkeypatch.setattr(interpreter, "_make", lambda agent, base, folder, wanted: folder.mkdir())

    def made(project: str, text: str, **included: str) -> str:
        folder = tmp_path / project
        folder.mkdir(exist_ok=True)
        for name, content in {"requirements": text, **included}.items():
            (folder / f"{name}.txt").write_text(content)
        return interpreter.interpreter(section(str(folder / "requirements.txt")))

    nested = "-r base.txt\n"
    of_base = [made("a", nested, base="one"), made("b", nested, base="two"), made("a", nested, base="three")]
    of_limits = [made("a", nested, base="-c limits.txt", limits=limit) for limit in ("one<2", "one<3")]
    of_paths = [made(project, text) for project in "ab" for text in ("./tools", "-e .", "wheels/x.whl")]
    assert len({*of_base, *of_limits, *of_paths}) == 11
    plain = "one==1  # or /two\ntwo @ https://host/two.whl\n-r base.txt\n"
    assert made("a", plain, base="-r requirements.txt") == made("b", plain, base="-r requirements.txt")


def test_without_uv_an_environment_is_made_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter.shutil, "which", lambda name: None)
    made = Path(interpreter.interpreter(section([wheel(tmp_path, "1.0")])))
    assert version(str(made)) == "1.0"
    assert (made.parent / "pip").exists()


def test_an_environment_is_made_once_also_by_two_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    make = interpreter._make

    def counted(agent: AgentSection, base: str, folder: Path, wanted: str) -> None:
        made.append(folder)
        make(agent, base, folder, wanted)

    monkeypatch.setattr(interpreter, "_make", counted)
    agent = section([wheel(tmp_path, "1.0")])
    makers = [threading.Thread(target=interpreter.interpreter, args=[agent]) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert version(interpreter.interpreter(agent)) == "1.0"
    assert len(made) == 1


def test_an_environment_that_was_left_half_made_is_made_again(tmp_path: Path) -> None:
    """Its maker may have been killed."""
    agent = section([wheel(tmp_path, "1.0")])
    folder = Path(interpreter.interpreter(agent)).parent.parent
    (folder / "al_ray-complete").unlink()
    (folder / "pyvenv.cfg").unlink()
    assert version(interpreter.interpreter(agent)) == "1.0"


def test_requirements_that_cannot_be_had_are_the_recipes_mistake() -> None:
    with pytest.raises(RecipeError, match=r"agent\.requirements: .*nowhere"):
        interpreter.interpreter(
            section(["al_ray_pinned @ file:///nowhere/al_ray_pinned-1.0-py3-none-any.whl"])
        )


def test_an_interpreter_that_is_none_is_the_recipes_mistake() -> None:
    with pytest.raises(RecipeError, match=r"agent\.python: '/bin/false'"):
        interpreter.interpreter(section([], python="/bin/false"))


def test_an_installed_al_ray_is_found_there_and_nothing_that_is_installed_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment's agent has its tools, and none of the packages that it is to be spared."""
    monkeypatch.setattr(sys, "path", [sysconfig.get_path("purelib")])
    imported(section([], run="al_ray.envs.calc_x.calculator:answer"))
    imported(section([], run="al_ray.envs.calc_x.calculator:answer"))
    with pytest.raises(RecipeError, match="No module named 'pydantic'"):
        imported(section([], run="al_ray.recipe:Recipe"))


def test_an_agent_is_imported_in_its_own_interpreter_before_a_run_starts(tmp_path: Path) -> None:
    """One that ours could not import passes, and one that its own cannot import is told."""
    imported(section([wheel(tmp_path, "1.0")], run="al_ray_pinned:act"))
    with pytest.raises(RecipeError, match="cannot import it: ModuleNotFoundError: No module named 'al_ray_p"):
        imported(section([], run="al_ray_pinned:act"))


READS = """import os
MODEL = os.environ["OPENAI_MODEL"]
KEYS = [os.environ["OPENAI_API_KEY"], os.environ["ANTHROPIC_API_KEY"]]
SEARCH = os.environ["AL_RAY_SERVICE_SEARCH_URL"]
def solve(task): return MODEL
def needs(more, than, these): return MODEL
assert MODEL == "toy"
"""


@pytest.mark.parametrize("python", [None, sys.executable])
def test_an_agent_may_read_its_endpoint_where_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str | None
) -> None:
    """As one does whose client is made at module level; in our interpreter and in its own."""
    (tmp_path / "reading_agent.py").write_text(READS)
    monkeypatch.syspath_prepend(tmp_path)
    imported(section(None, "reading_agent:solve", python))
    with pytest.raises(RecipeError, match="missing a required argument: 'than'"):
        imported(section(None, "reading_agent:needs", python))


@pytest.mark.parametrize("line", ["raise LookupError", "import absent_package", "solve = ("])
def test_code_that_cannot_be_imported_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """And the traceback comes with it, for those who show it."""
    (tmp_path / "failing_agent.py").write_text(f"\n{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match=r"agent\.run: .*failing_agent\.py, line 2\)$") as raised:
        imported(section(None, "failing_agent:solve"))
    assert line in str(raised.value.__cause__)


@pytest.mark.parametrize(
    "line",
    ["time.sleep(60)", "threading.Thread(target=time.sleep, args=[60]).start()"],
    ids=["waits", "goes on"],
)
def test_code_that_does_not_end_where_it_is_imported_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    (tmp_path / "endless_agent.py").write_text(f"import threading, time\n{line}\ndef solve(task): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(interpreter, "_IMPORT_SECONDS", 2.0)
    with pytest.raises(RecipeError, match=r"endless_agent:solve': .* and ended in 2 s: code that loops"):
        imported(section(None, "endless_agent:solve"))


def test_a_program_that_is_started_where_an_agent_is_imported_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = "import subprocess\nsubprocess.Popen(['sleep', '8'])\ndef solve(task): pass\n"
    (tmp_path / "starting_agent.py").write_text(started)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(interpreter, "_IMPORT_SECONDS", 5.0)
    imported(section(None, "starting_agent:solve"))


def test_an_agent_that_shares_the_runners_process_is_imported_in_none(home: Path) -> None:
    """Loading the recipe has imported it already."""
    imported(AgentSection(run="absent:solve"))
