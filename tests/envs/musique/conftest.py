"""The samples, and the real rows where this machine has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from al_ray.envs.musique import data

REAL = Path(os.environ.get("AL_RAY_DATA", "/nonexistent")) / data.FOLDER


@pytest.fixture(params=["samples", "real"])
def rows_path(request: pytest.FixtureRequest) -> str | None:
    """``data.path``: that of the samples, then of the real rows."""
    if request.param == "samples":
        return None
    if not REAL.is_dir():
        pytest.skip("AL_RAY_DATA has no musique")
    return str(REAL)
