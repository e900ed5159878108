"""The reward: 1 where the query gives what the gold query gives, on every database of the schema, else 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from al_ray.envs.spider.evaluation import Verdict, judge


def score(task: Mapping[str, Any], output: str) -> dict[str, float]:
    """``reward`` is the execution match; ``executes``, whether the query gives anything at all."""
    verdict = judge(Path(task["database"]), output, task["query"])
    return {"reward": float(verdict is Verdict.SAME), "executes": float(verdict is not Verdict.FAILED)}
