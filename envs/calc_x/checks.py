"""What ``al-ray data check`` looks at in a row of Calc-X."""

from __future__ import annotations

from pathlib import Path

from al_ray.data import files
from al_ray.data.dataset import Dataset, Examine, Example
from al_ray.data.files import DataRow
from al_ray.envs.calc_x.calculator import CalculatorError, calculate
from al_ray.envs.calc_x.data import FILES, FOLDER, WordProblem, calculations, held_out_questions
from al_ray.envs.calc_x.reward import understood


def _examine(directory: Path) -> Examine:
    held_out = held_out_questions(str(directory))

    def example(split: str, row: DataRow) -> Example:
        found = files.checked(row, WordProblem)
        question, expressions = files.asked(found["question"]), calculations(found["chain"])
        computes = all(map(_computes, expressions))
        return Example(
            found["id"],
            content=question,
            left_out=files.HELD_OUT if split == "train" and question in held_out else None,
            kinds={
                "source": found["source"],
                "calculations": str(len(expressions)),
                "chain": "can be shown" if computes else "has what we cannot calculate",
                "result": "a number or an option" if understood(found["result"]) else "another text",
            },
        )

    return example


def _computes(expression: str) -> bool:
    try:
        calculate(expression)
    except CalculatorError:
        return False
    return True


DATASET = Dataset(FOLDER, FILES, WordProblem, _examine)
