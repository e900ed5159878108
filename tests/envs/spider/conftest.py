"""The samples as tasks, and the real Spider rows where ``AL_RAY_DATA`` names the folder that they lie in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from al_ray.envs.spider import data
from al_ray.types import Task

HARBOUR = data.SAMPLES / "database" / "harbour" / "harbour.sqlite"


@pytest.fixture(scope="session")
def sample_tasks() -> Sequence[Task]:
    """All rows of train and validation."""
    return [task for split in ("train", "validation") for task in data.load(None, split).tasks]


@pytest.fixture(scope="session")
def real_folder() -> str:
    folder = os.environ.get("AL_RAY_DATA")
    if folder is None or not (Path(folder) / "spider").is_dir():
        pytest.skip("AL_RAY_DATA names no folder of real data")
    return folder


@pytest.fixture(scope="session")
def real_tasks(real_folder: str) -> Sequence[Task]:
    """All rows of train and validation that teach anything."""
    return [task for split in ("train", "validation") for task in data.load(real_folder, split).tasks]
