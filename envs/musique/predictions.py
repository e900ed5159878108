"""The prediction file of MuSiQue's official script, ``evaluate_v1.0.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from al_ray.envs.musique import scoring

FILE = "musique_predictions.jsonl"


def write(results: Sequence[tuple[Mapping[str, Any], Any]], folder: Path) -> Path:
    """One line a task, in the order of the rows, as the script asks for; of several outputs, the first.

    Outside of the setting with paragraphs there are no paragraph numbers, and none is predicted.
    """
    first: dict[int, tuple[Mapping[str, Any], Any]] = {}
    for task, output in results:
        first.setdefault(task["row"], (task, output))
    path = folder / FILE
    with path.open("w", encoding="utf-8") as file:
        for _, (task, output) in sorted(first.items()):
            file.write(json.dumps(prediction(task, output), ensure_ascii=False) + "\n")
    return path


def prediction(task: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    shown = {passage for search in output["searches"] for passage in search["found"]}
    return {
        "id": task["id"],
        "predicted_answer": scoring.answer(output["text"]),
        "predicted_support_idxs": sorted(shown) if "paragraphs" in task else [],
        "predicted_answerable": True,
    }
