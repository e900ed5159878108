"""Turns a dotted path of a recipe, ``package.module:attribute``, into the object it names."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from al_ray.errors import Problem, RecipeError, in_a_line


def load(path: str, where: str) -> Any:
    """The object at ``path``. Raises ``RecipeError`` naming ``where`` when there is none."""
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises when it is imported
        raise RecipeError(Problem(where, path, _cure(module_name, error))) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        cure = f"{module_name} has no {attribute!r}; give package.module:attribute"
        raise RecipeError(Problem(where, path, cure)) from error


def _cure(module_name: str, error: Exception | SystemExit) -> str:
    if isinstance(error, SystemExit):
        cure = "ends the program when it is imported: put that under `if __name__ == '__main__'`"
        return f"{module_name} {cure}; {in_a_line(error)}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name == module_name and module_name.endswith(".py"):
            return f"a module is named without .py: write {module_name.removesuffix('.py')}:NAME"
        if f"{module_name}.".startswith(f"{error.name}."):
            return f"no module named {error.name!r} is here, installed, or on PYTHONPATH"
        return f"{module_name} imports {error.name!r}, which is not installed{_extra(module_name)}"
    return f"{module_name} cannot be imported: {in_a_line(error)}"


def _extra(module_name: str) -> str:
    """The cure where it is an environment of ours: what it imports comes with an extra of its name, and may
    be called otherwise than its package."""
    room, _, name = module_name.partition("al_ray.envs.")
    name = "" if room else name.partition(".")[0]
    try:
        extras = metadata("al_ray").get_all("Provides-Extra", [])
    except PackageNotFoundError:  # only its files are here
        return ""
    return f": pip install 'al_ray[{name}]'" if name in extras else ""
