"""Turns a dotted path of a recipe, ``package.module:attribute``, into the object it names."""

from __future__ import annotations

import importlib
from typing import Any

from al_ray.errors import Problem, RecipeError


def load(path: str, where: str) -> Any:
    """The object at ``path``. Raises ``RecipeError`` naming ``where`` when there is none."""
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        cure = f"no module named {error.name!r}; give a module that this Python can import"
        raise RecipeError(Problem(where, path, cure)) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        cure = f"{module_name} has no {attribute!r}; give package.module:attribute"
        raise RecipeError(Problem(where, path, cure)) from error
