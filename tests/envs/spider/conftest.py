"""The samples as tasks, and the real Spider rows where ``AL_RAY_DATA`` names the folder that they lie in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from al_ray.envs.spider import data
from al_ray.types import Task, TaskSet

HARBOUR = data.SAMPLES / "database" / "harbour" / "harbour.sqlite"


@pytest.fixture(scope="session")
def sample_tasks() -> Sequence[Task]:
    """All rows of train and validation."""
    return [task for split in ("train", "validation") for task in data.load(None, split).tasks]


@pytest.fixture(scope="session")
def real_train() -> TaskSet:
    folder = os.environ.get("AL_RAY_DATA")
    if folder is None or not (Path(folder) / "spider").is_dir():
        pytest.skip("AL_RAY_DATA names no folder of real data")
    return data.load(folder, "train")
