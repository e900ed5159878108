"""What names a model: a folder with its files, or a name of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from al_ray.errors import Problem

_OF_HUB: Final = re.compile(r"(?!.*(--|\.\.|\.git$))\w([\w.-]{0,94}\w)?/\w([\w.-]{0,94}\w)?", re.ASCII)
"""By the rules of the hub's own client (``huggingface_hub.utils.validate_repo_id``)."""


def is_folder(name: str) -> bool:
    """Whether ``name`` is a folder that holds a model, and may be looked into."""
    try:
        return (Path(name).expanduser() / "config.json").is_file()
    except (OSError, RuntimeError):  # ``problem`` says what
        return False


def problem(name: str) -> Problem | None:
    """What is wrong with ``name``, as far as can be said without asking the hub."""
    if is_folder(name):
        return None
    try:
        if Path(name).expanduser().is_dir():
            return Problem("model.path", name, "the folder holds no config.json")
    except OSError as error:
        return Problem("model.path", name, f"cannot be looked at: {error.strerror}")
    except RuntimeError as error:  # a user's home that there is not
        return Problem("model.path", name, str(error))
    if not _OF_HUB.fullmatch(name):
        return Problem("model.path", name, "no such folder, and no hub name like `owner/model`")
    return None
