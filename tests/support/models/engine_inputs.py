"""The spec that engines of the tests are started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from al_ray.actors.engine.spec import EngineSpec


def engine_spec(model: Path, **changed: Any) -> EngineSpec:
    """A small engine on CPU."""
    small: dict[str, Any] = {
        "device": "cpu",
        "dtype": "float32",
        "max_length": 512,
        "threads": 1,
        "kv_cache_gib": 0.0625,
        "gpu_memory": 0.1,
        "max_running": 16,
        "seed": 0,
    }
    return EngineSpec(str(model), **small | changed)
