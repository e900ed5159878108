"""What names a model: a folder with its files, or a name of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from al_ray.errors import Problem


def is_folder(name: str) -> bool:
    """Whether ``name`` is a folder that holds a model."""
    return (Path(name).expanduser() / "config.json").is_file()


def problem(name: str) -> Problem | None:
    """What is wrong with ``name``, as far as can be said without asking the hub."""
    if is_folder(name):
        return None
    if Path(name).expanduser().is_dir():
        return Problem("model.path", name, "the folder holds no config.json")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return Problem("model.path", name, "no such folder, and no hub name like `owner/model`")
    return None
