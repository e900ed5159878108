"""Writes a project to begin with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from al_ray.errors import Problem, UserError

_TEMPLATES: Final = "templates"


@dataclass(frozen=True, slots=True)
class Framework:
    """What an agent is made with."""

    agent: str
    """Its lines in the recipe's section ``agent``."""
    needs: Mapping[str, str]
    """The packages that it imports in al_ray's own environment: by module, what is installed."""


FRAMEWORKS: Final[Mapping[str, Framework]] = {
    "plain": Framework("  run: agent:solve", {}),
    "langgraph": Framework(
        "  run: agent:solve", {"langgraph": "langgraph", "langchain_openai": "langchain-openai"}
    ),
    "openai-agents": Framework("  run: agent:solve", {"agents": "openai-agents"}),
    "autogen": Framework(
        "  run: agent:solve\n  isolation: process\n"
        '  requirements: [autogen-agentchat==0.7.5, "autogen-ext[openai]==0.7.5"]',
        {},
    ),
    "command": Framework("  isolation: command\n  command: [python3, agent.py]", {}),
}
"""By the name that the command line has for them."""


def write(folder: Path, framework: str) -> Sequence[Path]:
    """The files of a new project, which is called as its folder. Raises ``UserError``."""
    if framework not in FRAMEWORKS:
        raise UserError(Problem("--framework", framework, f"one of {', '.join(FRAMEWORKS)}"))
    name = folder.name
    if not re.fullmatch(r"\w[\w.-]*", name):
        cure = "the folder names the recipe: letters, digits and _.- are allowed, the first a letter or digit"
        raise UserError(Problem("NAME", str(folder), cure))
    try:
        return _written(folder, framework)
    except OSError as error:
        raise UserError(Problem("NAME", str(folder), f"cannot be written: {error.strerror}")) from error


def _written(folder: Path, framework: str) -> Sequence[Path]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(Problem("NAME", str(folder), "is there already, and not empty; give another name"))
    name = folder.name
    templates = {
        "agent.py": f"agent-{framework}.py",
        "tasks.py": "tasks.py",
        "reward.py": "reward.py",
        f"{name}.yaml": "recipe.yaml",
        "test_agent.py": "test_agent.py",
        ".gitignore": "gitignore",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, template in templates.items():
        text = resources.files(__package__).joinpath(_TEMPLATES, f"{template}.tmpl").read_text("utf-8")
        text = text.replace("@NAME@", name).replace("@AGENT@", FRAMEWORKS[framework].agent)
        (folder / file).write_text(text, encoding="utf-8")
    (folder / f"{name}.yaml").chmod(0o755)
    return [folder / file for file in templates]


def missing(framework: str) -> Sequence[str]:
    """The packages of ``needs`` that are not installed here."""
    needs = FRAMEWORKS[framework].needs
    return [package for module, package in needs.items() if find_spec(module) is None]
