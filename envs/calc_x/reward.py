"""The reward: 1 for the right answer, however it was found, else 0.

As in Calc-X and Agent Lightning, a number within one percent of the true one is right; the README tells
where ours differs from theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

RELATIVE_TOLERANCE = Fraction(1, 100)
MAX_LENGTH = 100
"""Characters of an answer that is read as a number."""

# Possessive, so that no text of a model takes more than linear time.
_PUBLISHED = re.compile(r"###\s*+ANSWER:\s*+([^#\n]++)\s*+(?:###|$)")
# On one line: what only stands between the marks of two lines is a heading.
_SHORT = re.compile(r"###[^\S\n]*+([^#\n]++)###")
_DIGITS = r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*"  # Calc-X itself writes 1_250
_DECIMAL = rf"[-+]?\s*(?:(?:{_DIGITS})(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{{1,2}})?"
_NUMBER = re.compile(rf"({_DECIMAL})(?:\s*/\s*({_DECIMAL}))?\s*(%?)")
_IN_PARENTHESES = re.compile(r"([-+]?)\s*\((.+)\)")
_OPTION = re.compile(r"\(?\s*([A-Za-z])\s*\)?")


def score(task: Mapping[str, Any], output: str) -> Mapping[str, float]:
    """``reward`` and Calc-X's own ``correct_results`` are 1.0 if the answer equals the task's ``result``,
    else 0.0; ``answered`` tells whether there was one."""
    given = answer(output)
    correct = float(given is not None and same(given, task["result"]))
    return {"reward": correct, "correct_results": correct, "answered": float(given is not None)}


def answer(output: str) -> str | None:
    """The last one in the published form, ``### ANSWER: 51 ###``, else in the short one, ``### 51 ###``."""
    found = _PUBLISHED.findall(output) or _SHORT.findall(output)
    return found[-1].strip() if found else None


def same(given: str, result: str) -> bool:
    """Whether two answers are one text, one option letter, or numbers within ``RELATIVE_TOLERANCE``."""
    given, result = given.strip(), result.strip()
    if given == result:
        return True
    options = _OPTION.fullmatch(given), _OPTION.fullmatch(result)
    if options[0] and options[1]:
        return options[0][1] == options[1][1]
    numbers = _number(given), _number(result)
    if numbers[0] is None or numbers[1] is None:
        return False
    return abs(numbers[0] - numbers[1]) <= RELATIVE_TOLERANCE * max(abs(numbers[0]), abs(numbers[1]))


def understood(result: str) -> bool:
    """Whether a true result can be equalled otherwise than letter by letter."""
    result = result.strip()
    return _OPTION.fullmatch(result) is not None or _number(result) is not None


def _number(text: str) -> Fraction | None:
    """A decimal, a fraction or a percentage; Calc-X writes ``2/3 = around 0.666667``."""
    text = text.split(" = around ")[0].strip()
    if len(text) > MAX_LENGTH:
        return None
    if inner := _IN_PARENTHESES.fullmatch(text):
        value = _number(inner[2])
        return -value if value is not None and inner[1] == "-" else value
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    numerator, denominator = _decimal(found[1]), _decimal(found[2] or "1")
    if denominator == 0:
        return None
    return numerator / denominator / (100 if found[3] else 1)


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[\s,]", "", text))
