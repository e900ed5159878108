"""The JSON that describes a model or an adapter beside its weights: read, or told to be none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from al_ray.errors import Problem, RecipeError

CUT_OFF: Final = "was the download cut off, or is it a pointer of Git LFS (git lfs pull)?"


def config_of(folder: Path) -> dict[str, Any]:
    """A model's. Raises ``RecipeError`` where there is none that can be read."""
    return read(folder / "config.json", "model.path")


def read(file: Path, where: str) -> dict[str, Any]:
    """The object in a file, which stands ``where`` in the recipe."""
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise RecipeError(Problem(where, str(file), f"cannot be read: {error.strerror}")) from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise RecipeError(Problem(where, str(file), f"is no JSON: {error}; {CUT_OFF}")) from error
    if not isinstance(found, dict):
        raise RecipeError(Problem(where, str(file), f"holds no JSON object, but {found!r:.40}"))
    return found
