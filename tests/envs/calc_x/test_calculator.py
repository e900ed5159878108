"""The calculator computes exactly, shows plainly, and answers any text at once."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from fractions import Fraction
from operator import add, floordiv, mod, mul, sub, truediv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.envs.calc_x import calculator
from al_ray.envs.calc_x.calculator import CalculatorError, answer, calculate, evaluate, show

README = (Path(calculator.__file__).parent / "README.md").read_text(encoding="utf-8")
ATTACKS = re.findall(r"^\| `(.+)` \| `(error: .+)` \|$", README, re.MULTILINE)

Expression = tuple[str, Fraction]
LITERALS = st.one_of(
    st.integers(0, 9999).map(lambda n: (str(n), Fraction(n))),
    st.integers(0, 99999).map(lambda n: (f"{n // 100}.{n % 100:02}", Fraction(n, 100))),
    st.integers(1000, 10**9).map(lambda n: (f"{n:,}", Fraction(n))),
    st.integers(0, 200).map(lambda n: (f"({n}%)", Fraction(n, 100))),
)


@st.composite
def binary(draw: st.DrawFn, operands: st.SearchStrategy[Expression]) -> Expression:
    """``(left operator right)`` and its value, by Python's own arithmetic of fractions."""
    left, right = draw(operands), draw(operands)
    operators: dict[str, Callable[[Fraction, Fraction], Fraction | int]] = {"+": add, "-": sub, "*": mul}
    if right[1] != 0:
        operators |= {"/": truediv, "//": floordiv, "%": mod}
    operator = draw(st.sampled_from(sorted(operators)))
    space = draw(st.sampled_from(["", " "]))
    text = f"({left[0]}{space}{operator}{space}{right[0]})"
    return text, Fraction(operators[operator](left[1], right[1]))


@given(st.recursive(LITERALS, binary, max_leaves=5))
def test_the_value_is_that_of_python_fractions(expression: Expression) -> None:
    """Whatever is added, subtracted, multiplied and divided, no digit is lost."""
    text, value = expression
    assert calculate(text) == value


@given(st.lists(st.tuples(st.sampled_from(["+", "-", "*", "/", "**"]), st.integers(1, 4)), max_size=5))
def test_operators_bind_as_in_python(terms: list[tuple[str, int]]) -> None:
    """Without parentheses, precedence and associativity are Python's, the sign's included."""
    text = "-2" + "".join(f"{operator}{number}" for operator, number in terms)
    try:
        value = calculate(text)
    except CalculatorError as error:
        assert str(error) == "the number is too large"
    else:
        assert value == eval(re.sub("([1-4])", r"Fraction(\1)", text))


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("2/3", "0.666667"),
        ("-2/3", "-0.666667"),
        ("1/3000", "0.000333333"),
        ("1234567/3", "411522.333333"),
        ("(22.0 - 14.0)/4.0", "2"),
        ("144.00", "144"),
        ("1,234,567.5+1", "1234568.5"),
        ("200*15%", "30"),
        ("20%-5", "-4.8"),
        ("17 % 5", "2"),
        ("2^3^2", "512"),
        ("-2**2", "-4"),
        ("2**-2", "0.25"),
        (".5+1.", "1.5"),
        ("0*-1", "0"),
    ],
)
def test_results_are_plain_decimals(expression: str, shown: str) -> None:
    """Integers stay whole, decimals lose trailing zeros, other fractions keep six digits."""
    assert evaluate(expression) == shown


@given(st.fractions(max_denominator=10**6))
def test_what_is_shown_is_close_and_can_be_typed_in_again(value: Fraction) -> None:
    """The decimal is within the rounding of six digits, and shows itself."""
    shown = show(value)
    assert abs(Fraction(shown) - value) <= min(Fraction(1, 2 * 10**6), abs(value) / 10**5)
    assert evaluate(shown) == shown


@pytest.mark.parametrize(("attack", "told"), ATTACKS, ids=[attack for attack, _ in ATTACKS])
def test_the_outcome_of_each_attack_is_what_the_readme_says_and_comes_at_once(attack: str, told: str) -> None:
    """Code, foreign digits and enormous numbers give a short message within milliseconds."""
    expression = eval(attack)  # our own README's Python
    start = time.perf_counter()
    shown = answer(expression)
    assert time.perf_counter() - start < 0.1
    assert shown == told and len(shown) < 80


@pytest.mark.parametrize(
    "expression", ["9**-9**9", "1 2", "1//0", "1%0", "1)", "()", "*1", "1+", "%", "1_", "_1", "1_000,000"]
)
def test_what_is_no_arithmetic_is_an_error(expression: str) -> None:
    with pytest.raises(CalculatorError):
        evaluate(expression)


def test_the_underscores_that_calc_x_writes_separate_digits() -> None:
    """Its chains have ``1 / 4_000``."""
    assert calculate("319_999/400_000 + 1_000.5") == Fraction(319999, 400000) + Fraction("1000.5")


@given(st.text(alphabet="0123456789.,+-*/%^() ", max_size=40))
def test_any_text_gives_a_number_or_a_calculator_error(text: str) -> None:
    """No other exception comes out, whatever is typed in."""
    try:
        float(evaluate(text))
    except CalculatorError as error:
        assert str(error)
