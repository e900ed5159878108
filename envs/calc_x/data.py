"""The rows: Calc-X's format, read from a folder, the hub or the samples, as tasks.

A row's chain holds the calculations as ``<gadget id="calculator">48/2</gadget><output>24</output>``.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from al_ray.data import files
from al_ray.types import Task, TaskSet

SAMPLES = Path(__file__).parent / "samples"
FOLDER = "calc_x"
FILES = {"train": ("train",), "validation": ("validation", "test")}
"""File stems by split, in order of preference."""

_CALCULATION = re.compile(r'<gadget id="calculator">(.*?)</gadget>', re.DOTALL)
_OPERATOR = re.compile(r"\*\*|//|[-+*/%^]")


class WordProblem(TypedDict):
    """A row as published, which is also the task's data."""

    id: str
    question: str
    chain: str
    result: str
    source: str


def load(
    path: str | None,
    split: str,
    *,
    sources: list[str] | None = None,
    max_calls: int | None = None,
    max_operations: int | None = None,
    max_question_chars: int | None = None,
) -> TaskSet:
    """The tasks of a split, in the order of the file.

    Of the training rows those are left out whose question is in the file for validation too, as some of the
    published are.

    ``sources`` keeps the rows that come from these datasets, ``max_calls`` those with between one
    and so many calculations, ``max_operations`` those with at most so many operators in all of them
    together, ``max_question_chars`` those with a question no longer than that.
    """

    held_out = held_out_questions(path) if split == "train" else frozenset()

    def left_out_by(row: WordProblem) -> str | None:
        if files.asked(row["question"]) in held_out:
            return files.HELD_OUT
        if sources is not None and row["source"] not in sources:
            return "of other sources"
        if max_calls is not None and not 1 <= len(calculations(row["chain"])) <= max_calls:
            return f"without a calculation or with more than {max_calls}"
        if max_operations is not None and operations(row["chain"]) > max_operations:
            return f"with more than {max_operations} operators"
        if max_question_chars is not None and len(row["question"]) > max_question_chars:
            return f"with a question of more than {max_question_chars} characters"
        return None

    tasks = []
    left_out: Counter[str] = Counter()
    families = {}
    for found in files.rows(path, FILES[split], samples=SAMPLES, folder=FOLDER):
        row = files.checked(found, WordProblem)
        families[row["id"]] = files.asked(row["question"])
        reason = left_out_by(row)
        if reason is None:
            tasks.append(task(row, split))
        else:
            left_out[reason] += 1
    return TaskSet(tasks, left_out, families)


def held_out_questions(path: str | None) -> frozenset[str]:
    """Those of the file for validation; none where there is no such file."""
    return files.questions(path, FILES["validation"], samples=SAMPLES, folder=FOLDER)


def task(row: WordProblem, split: str) -> Task:
    """The row as a task: its data is all of the row."""
    data: dict[str, Any] = {**row}
    return Task(row["id"], data, split)


def calculations(chain: str) -> list[str]:
    """The expressions of a chain, as they are written there."""
    return [match.strip() for match in _CALCULATION.findall(chain)]


def operations(chain: str) -> int:
    """How many operators the expressions of a chain have; a sign is one."""
    return sum(len(_OPERATOR.findall(expression)) for expression in calculations(chain))
