"""The real Calc-X rows, where ``AL_RAY_DATA`` names the folder that they lie in."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from al_ray.envs.calc_x import data
from al_ray.types import Task


@pytest.fixture(scope="session")
def real_tasks() -> Sequence[Task]:
    """All rows of train and validation."""
    folder = os.environ.get("AL_RAY_DATA")
    if folder is None:
        pytest.skip("AL_RAY_DATA names no folder of real data")
    return [task for split in ("train", "validation") for task in data.load(folder, split).tasks]
