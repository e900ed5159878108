"""The reward: 1 for the right answer, however it was found, else 0.

As in Calc-X and Agent Lightning, a number within one percent of the true one is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from al_ray.envs.calc_x.calculator import CalculatorError, calculate

RELATIVE_TOLERANCE = Fraction(1, 100)

_ANSWER = re.compile(r"###\s*([^#\n]+?)\s*###")
_NUMBER = re.compile(r"[-+]?[0-9.,]+(\s*/\s*[0-9.,]+)?\s*%?")
_OPTION = re.compile(r"\(?\s*([A-Za-z])\s*\)?")


def score(task: Mapping[str, Any], output: str) -> float:
    """1.0 if the last ``### answer ###`` of the output equals the task's ``result``, else 0.0."""
    answers = _ANSWER.findall(output)
    return float(bool(answers) and same(answers[-1], task["result"]))


def same(answer: str, result: str) -> bool:
    """Whether two answers are one option letter, or numbers within ``RELATIVE_TOLERANCE``."""
    options = _OPTION.fullmatch(answer), _OPTION.fullmatch(result)
    if options[0] and options[1]:
        return options[0][1] == options[1][1]
    numbers = _number(answer), _number(result)
    if numbers[0] is None or numbers[1] is None:
        return False
    return abs(numbers[0] - numbers[1]) <= RELATIVE_TOLERANCE * max(abs(numbers[0]), abs(numbers[1]))


def _number(text: str) -> Fraction | None:
    """A decimal, a fraction or a percentage; Calc-X writes ``2/3 = around 0.666667``."""
    text = text.split(" = around ")[0].strip()
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return calculate(text)
    except CalculatorError:
        return None
