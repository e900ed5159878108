"""The interpreter of an agent that runs in processes of its own: ours, one that the recipe names, or
that of a virtual environment with the packages that the recipe asks for.

An environment is made once and kept under ``AL_RAY_HOME/agents``, by the hash of what it is made from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import al_ray
from al_ray.actors.agent import child
from al_ray.actors.agent.environment import variables
from al_ray.actors.agent.inherited import inherited
from al_ray.actors.agent.job import Job
from al_ray.actors.agent.printed import Printed
from al_ray.errors import Problem, RecipeError, ToldError, is_library
from al_ray.machines.home import home
from al_ray.machines.turns import turn
from al_ray.recipe import AgentSection
from al_ray.types import Attempt, Endpoint, RolloutRequest, Task

_log = logging.getLogger(__name__)
_SAID: Final = 1000
"""Characters of an installer's complaint that are told: the last."""
_CHECK: Final = "check"
_IMPORT_SECONDS: Final = 300.0
"""The libraries of a large framework are imported in less, from a slow disk too."""
_NOBODY: Final = "http://127.0.0.1:9"
"""Nobody listens there."""
_INCLUDED: Final = re.compile(r"\s*(?:-r|-c|--requirement|--constraint)[\s=]*(\S+)")
"""A line of a requirements file that names another."""
_LOCAL: Final = re.compile(r"\s*(?:-e|--editable|\.|[^#:]*/)")
"""The beginning of one that names a path, and no URL."""
_FRAME: Final = re.compile(r'File "(.+)", line (\d+)')
_IDENTITY: Final = "import os, sys; print(sys.version, os.path.realpath(sys.executable))"


def interpreter(agent: AgentSection) -> str:
    """Its path, the environment made if there is none yet. Raises ``RecipeError``."""
    base = agent.python or sys.executable
    if agent.requirements is None:
        return base
    wanted = _requirements(agent.requirements)
    identity = _run(agent, "python", [base, "-c", _IDENTITY])
    name = hashlib.sha256(f"{identity}\n{wanted}".encode()).hexdigest()[:16]
    folder = home() / "agents" / name
    complete = folder / "al_ray-complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with turn("agent.requirements", folder, _log.info):
        if not complete.is_file():
            shutil.rmtree(folder, ignore_errors=True)  # of a maker that was killed
            _make(agent, base, folder, wanted)
            complete.touch()
    return str(folder / "bin" / "python")


def check(agent: AgentSection, model: str, services: Iterable[str]) -> None:
    """If the agent is to run in processes, import it in one: in its own interpreter, and with the variables
    that it will find, for it may read them where it is imported. Raises ``RecipeError``."""
    if agent.isolation != "process":
        return
    python = interpreter(agent)
    endpoint = Endpoint(f"{_NOBODY}/v1", "key", model, dict.fromkeys(services, _NOBODY))
    job = Job(
        RolloutRequest(_CHECK, _CHECK, _CHECK, Task(_CHECK, {})),
        Attempt(_CHECK, 1, "key"),
        endpoint,
        Printed(),
    )
    with tempfile.TemporaryFile() as result, tempfile.TemporaryFile() as complaint:
        try:
            code = subprocess.run(
                [python, child.SCRIPT, str(result.fileno())],
                input=json.dumps({"run": agent.run}).encode(),
                env=variables(job, python_variables(agent)),
                pass_fds=[result.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=complaint,  # no pipe, whose end a program that it has started may keep open
                timeout=_IMPORT_SECONDS,
            ).returncode
        except subprocess.TimeoutExpired as error:
            cure = f"{python} has not imported it and ended in {_IMPORT_SECONDS:g} s: code that loops, waits "
            cure += "or starts threads must not stand at module level"
            raise RecipeError(Problem("agent.run", agent.run, cure)) from error
        result.seek(0)
        complaint.seek(0)
        told, printed = json.loads(result.read() or b"{}"), complaint.read().decode(errors="replace")
    if "output" not in told:
        said = told.get("error") or printed or f"exit code {code}"
        cure = f"{python} cannot import it: {_in_a_line(said)}"
        traceback = ToldError(said, told.get("error_class", ""))
        raise RecipeError(Problem("agent.run", agent.run, cure)) from traceback


def _in_a_line(told: str) -> str:
    """The last line of a traceback, and the last place in it that is the agent's."""
    frames = [(file, line) for file, line in _FRAME.findall(told) if not is_library(file)]
    own = [f" ({file}, line {line})" for file, line in frames if not file.startswith(child.SCRIPT)]
    return told.strip().rsplit("\n", 1)[-1] + (own[-1] if own else "")


def python_variables(agent: AgentSection) -> dict[str, str]:
    """What it inherits of our environment, and the path by which another interpreter finds what we import
    that is not installed: where the agent lies, not the packages that it is to be spared. Of these it finds
    al_ray alone, without what al_ray needs: an environment's agent has its tools beside it."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = [Path(sysconfig.get_path(kind)) for kind in kinds]
    here = [path or os.curdir for path in sys.path]  # the command puts "" there
    own = [path for path in here if os.path.isdir(path) and not _is_installed(Path(path), installed)]
    paths = os.pathsep.join(dict.fromkeys(map(os.path.abspath, [*own, str(_folder_of_al_ray_alone())])))
    return inherited(agent, os.environ) | {"PYTHONPATH": paths}


def _folder_of_al_ray_alone() -> Path:
    """One with a link to the package and nothing else, unlike the folder that it is installed in."""
    package = Path(al_ray.__file__).resolve().parent
    folder = home() / "package" / hashlib.sha256(bytes(package)).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # made earlier, or by another process just now
        (folder / "al_ray").symlink_to(package)
    return folder


def _is_installed(path: Path, installed: Sequence[Path]) -> bool:
    named_so = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(named_so) or any(path.is_relative_to(folder) for folder in installed)


def _requirements(given: str | Sequence[str]) -> str:
    """All that tells them from others: of a file, also the files that it includes, and the folder of what it
    names relative to one."""
    if not isinstance(given, str):
        return "\n".join(given)
    try:
        return "\n".join(_told(Path(given), set()))
    except OSError as error:
        cure = f"the file cannot be read: {error.strerror}"
        raise RecipeError(Problem("agent.requirements", given, cure)) from None


def _told(file: Path, known: set[Path]) -> Iterator[str]:
    known.add(file)
    text = file.read_text(encoding="utf-8")
    yield text
    for line in text.splitlines():
        if included := _INCLUDED.match(line):
            other = file.parent / included[1]
            if other.is_file() and other not in known:  # what is not there, the installer complains of
                yield from _told(other, known)
        elif _LOCAL.match(line):
            yield str(file.parent.absolute())


def _make(agent: AgentSection, base: str, folder: Path, wanted: str) -> None:
    """By uv where it is installed, else by venv and pip."""
    uv = shutil.which("uv")
    python = str(folder / "bin" / "python")
    make = [uv, "venv", "--quiet", "--python", base] if uv else [base, "-m", "venv"]
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    _run(agent, "python", [*make, str(folder)])
    if isinstance(agent.requirements, str):  # itself, for the sake of the relative paths in it
        _run(agent, "requirements", [*install, "-r", agent.requirements])
    elif agent.requirements:
        _run(agent, "requirements", [*install, *agent.requirements])


def _run(agent: AgentSection, key: str, command: Sequence[str]) -> str:
    """What the command printed; if it fails, that is the mistake of the recipe's ``agent.KEY``."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RecipeError(_problem(agent, key, f"{command[0]}: {error.strerror}")) from None
    if done.returncode:
        raise RecipeError(_problem(agent, key, f"{' '.join(command)}: {done.stderr.strip()[-_SAID:]}"))
    return done.stdout


def _problem(agent: AgentSection, key: str, cure: str) -> Problem:
    return Problem(f"agent.{key}", getattr(agent, key), cure)
