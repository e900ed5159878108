"""The calculator: exact arithmetic on a string that a language model wrote.

Grammar, loosest binding first: ``+ -``; ``* / // %``; a sign; ``** ^``, from the right; a trailing
``%``, for hundredths. A ``%`` before a number or a parenthesis is the remainder. Nothing but numbers
and operators is understood, values are rationals, and length, nesting and digits are bounded, so
every call returns at once.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_LENGTH = 400
MAX_NESTING = 32
MAX_BITS = 256
"""Of the numerator and of the denominator of every intermediate value."""
PLACES = 6
"""Digits shown after the point, not counting zeros that lead them."""

DESCRIPTION = "The value of an arithmetic expression."
ARGUMENT = "Numbers, + - * / // % ** and parentheses, for example (22 - 14) / 4"
"""What a model is told of the tool."""

_TOKEN = re.compile(
    r"(?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]*)?|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)"
    r"|(?P<operator>\*\*|//|[-+*/%^()])"
)


class CalculatorError(ValueError):
    """The expression has no value; the message is for whoever wrote the expression."""


def answer(expression: str) -> str:
    """What a model is shown: the value, or what is wrong after ``error: ``."""
    try:
        return evaluate(expression)
    except CalculatorError as error:
        return f"error: {error}"


def evaluate(expression: str) -> str:
    """The value as the calculator shows it: ``"2/3"`` gives ``"0.666667"``."""
    return show(calculate(expression))


def calculate(expression: str) -> Fraction:
    """The exact value."""
    return _Parser(tokenize(expression)).parse()


def tokenize(expression: str) -> list[str]:
    """Numbers, without the commas or the underscores between their digits, and operators."""
    if len(expression) > MAX_LENGTH:
        raise CalculatorError(f"longer than {MAX_LENGTH} characters")
    tokens = []
    rest = expression.strip()
    while rest:
        match = _TOKEN.match(rest)
        if match is None:
            raise CalculatorError(f"unexpected {rest[:10]!r}")
        tokens.append(re.sub("[,_]", "", match.group()))
        rest = rest[match.end() :].lstrip()
    return tokens


def show(value: Fraction) -> str:
    """A plain decimal; integers exact, anything else rounded to ``PLACES`` digits."""
    places = PLACES
    while value and abs(value) * 10 ** (places - PLACES + 1) < 1:
        places += 1
    scaled = round(value * 10**places)
    digits = str(abs(scaled)).zfill(places + 1)
    decimal = f"{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")
    return f"-{decimal}" if scaled < 0 else decimal


class _Parser:
    """Recursive descent over the tokens; every method consumes what it names and returns its value."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = [*tokens, ""]
        self._position = 0
        self._nesting = 0

    def parse(self) -> Fraction:
        value = self._sum()
        if self._next:
            raise CalculatorError(f"unexpected {self._next!r}")
        return value

    @property
    def _next(self) -> str:
        return self._tokens[self._position]

    def _take(self, *tokens: str) -> str:
        """The next token if it is one of these, else nothing."""
        if self._next not in tokens:
            return ""
        self._position += 1
        return self._tokens[self._position - 1]

    def _sum(self) -> Fraction:
        value = self._product()
        while operator := self._take("+", "-"):
            right = self._product()
            value = _bounded(value + right if operator == "+" else value - right)
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while operator := self._take("*", "/", "//", "%"):
            right = self._signed()
            if operator != "*" and right == 0:
                raise CalculatorError("division by zero")
            value = _bounded(_multiply_or_divide(value, operator, right))
        return value

    def _signed(self) -> Fraction:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise CalculatorError(f"nested more than {MAX_NESTING} deep")
        if sign := self._take("+", "-"):
            operand = self._signed()
            value = -operand if sign == "-" else operand
        else:
            value = self._power()
        self._nesting -= 1
        return value

    def _power(self) -> Fraction:
        base = self._percentage()
        return _raise_to(base, self._signed()) if self._take("**", "^") else base

    def _percentage(self) -> Fraction:
        value = self._atom()
        while self._next == "%" and not self._operand_at(self._position + 1):
            self._position += 1
            value = _bounded(value / 100)
        return value

    def _atom(self) -> Fraction:
        if self._take("("):
            value = self._sum()
            if not self._take(")"):
                raise CalculatorError("a '(' is never closed")
            return value
        if not self._operand_at(self._position):
            raise CalculatorError(f"a number is missing before {self._next or 'the end'!r}")
        self._position += 1
        return _bounded(Fraction(self._tokens[self._position - 1]))

    def _operand_at(self, position: int) -> bool:
        token = self._tokens[position]
        return token == "(" or token[:1].isdigit() or token[:1] == "."


def _multiply_or_divide(left: Fraction, operator: str, right: Fraction) -> Fraction:
    match operator:
        case "*":
            return left * right
        case "/":
            return left / right
        case "//":
            return Fraction(left // right)
        case _:
            return left % right


def _raise_to(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise CalculatorError("the exponent must be a whole number")
    if base == 0 and exponent < 0:
        raise CalculatorError("division by zero")
    if abs(base) not in (0, 1) and _bits(base) * abs(exponent) > 2 * MAX_BITS:
        raise CalculatorError("the number is too large")
    return _bounded(base**exponent.numerator)


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise CalculatorError("the number is too large")
    return value


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())
