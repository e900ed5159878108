"""The predictions in the file that Calc-X's own script scores (``examples/test_calc.py`` of its
repository): a JSON line for each, whose answer stands between ``<result>`` tags."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from al_ray.envs.calc_x.reward import answer


def write(results: Sequence[tuple[Mapping[str, Any], str]], folder: Path) -> Path:
    """``predictions.jsonl`` in ``folder``."""
    file = folder / "predictions.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for task, output in results:
            lines.write(json.dumps(_line(task, output), ensure_ascii=False) + "\n")
    return file


def _line(task: Mapping[str, Any], output: str) -> dict[str, str]:
    return {
        "id": task["id"],
        "source_ds": task["source"],
        "question": task["question"],
        "result": task["result"],
        "prediction": f"<result>{html.escape(answer(output) or '')}</result>",
        "output": output,
    }
