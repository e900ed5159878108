"""What ``al-ray data check`` looks at in a row of Calc-X."""

from __future__ import annotations

from pathlib import Path

from al_ray.data import files
from al_ray.data.dataset import Dataset, Examine, Example
from al_ray.data.files import DataRow
from al_ray.envs.calc_x.calculator import CalculatorError, calculate
from al_ray.envs.calc_x.data import FILES, FOLDER, WordProblem, asked, calculations
from al_ray.envs.calc_x.reward import understood


def _examine(directory: Path) -> Examine:
    """Rows refer to nothing beside them."""
    return _example


def _example(split: str, row: DataRow) -> Example:
    found = files.checked(row, WordProblem)
    expressions = calculations(found["chain"])
    return Example(
        found["id"],
        content=asked(found["question"]),
        kinds={
            "source": found["source"],
            "calculations": str(len(expressions)),
            "chain": "can be shown" if all(map(_computes, expressions)) else "has what we cannot calculate",
            "result": "a number or an option" if understood(found["result"]) else "another text",
        },
    )


def _computes(expression: str) -> bool:
    try:
        calculate(expression)
    except CalculatorError:
        return False
    return True


DATASET = Dataset(FOLDER, FILES, WordProblem, _examine)
