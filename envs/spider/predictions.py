"""Predictions as the official evaluator reads them: a query on each line, in the order of the gold file.

python evaluation.py --gold FOLDER/gold.txt --pred FOLDER/predict.txt --db DATABASES --etype exec
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from al_ray.envs.spider.sql_text import on_one_line

NO_QUERY = "SELECT"
"""In place of an empty answer: an empty line would end a conversation. It fails."""


def write(results: Sequence[tuple[Mapping[str, Any], str]], folder: Path) -> Path:
    """Write ``gold.txt`` and ``predict.txt``; the latter is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    gold = (f"{on_one_line(task['query'])}\t{task['db_id']}\n" for task, _ in results)
    predicted = (f"{on_one_line(output) or NO_QUERY}\n" for _, output in results)
    (folder / "gold.txt").write_text("".join(gold), encoding="utf-8")
    (folder / "predict.txt").write_text("".join(predicted), encoding="utf-8")
    return folder / "predict.txt"
