"""Demonstrations are short, right, and what the agent itself would have sent."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.envs.calc_x import agent, data, reward
from al_ray.envs.calc_x.calculator import calculate
from al_ray.envs.calc_x.demonstrations import demonstrate, shorten
from al_ray.errors import DataError
from al_ray.types import Task

TASK = {
    "id": "t",
    "question": "How many each?",
    "chain": '<gadget id="calculator">( 22.0 - 14.0 )</gadget>\n<output>8</output>\n\n'
    '<gadget id="calculator">(8.0/3.0)</gadget>\n<output>8/3 = around 2.666667</output>\n\n',
    "result": "8/3 = around 2.666667",
    "source": "made",
}


def test_a_chain_becomes_calls_results_and_an_answer() -> None:
    """Each calculation is an assistant message with one call, answered by our calculator."""
    shown = demonstrate(TASK)
    assert [message["role"] for message in shown.messages] == [
        *("system", "user"),
        *("assistant", "tool"),
        *("assistant", "tool"),
        "assistant",
    ]
    calls = [call["function"] for message in shown.messages for call in message.get("tool_calls", [])]
    assert [json.loads(call["arguments"]) for call in calls] == [
        {"expression": "22-14"},
        {"expression": "8/3"},
    ]
    assert [message["content"] for message in shown.messages[3::2]] == ["8", "2.666667"]
    assert shown.messages[-1]["content"] == "### 2.666667 ###"
    assert shown.tools == [agent.CALCULATOR]


def test_an_answer_that_the_calculator_did_not_show_is_the_result() -> None:
    """A chain that stops before the end, and a letter, are answered with the row's result."""
    for result, answer in (("17", "17"), ("C", "C"), ("1/7 = around 0.142857", "1/7")):
        assert demonstrate(TASK | {"result": result}).messages[-1]["content"] == f"### {answer} ###"


def test_a_chain_that_the_calculator_cannot_evaluate_is_a_data_error() -> None:
    """The row, the calculation and a way out are told."""
    chain = '<gadget id="calculator">sqrt(2)</gadget>'
    with pytest.raises(DataError, match=r"chain of t: 'sqrt\(2\)'.*sources"):
        demonstrate(TASK | {"chain": chain})


@pytest.mark.parametrize(
    ("written", "short"),
    [
        ("(22.0-14.0)/4.0", "(22-14)/4"),
        ("( 317.0 - 295.0 )", "317-295"),
        ("((1+2)*(3+4))", "(1+2)*(3+4)"),
        ("(1+2)*(3+4)", "(1+2)*(3+4)"),
        ("1,200 * .50", "1200*0.5"),
        ("007.10%", "7.1%"),
        ("10 % (3)", "10%(3)"),
    ],
)
def test_expressions_are_written_in_few_characters(written: str, short: str) -> None:
    """Spaces, outer parentheses and digits without meaning go."""
    assert shorten(written) == short


@given(st.recursive(st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3})?", fullmatch=True),
                    lambda inner: st.builds("( {} {} {} )".format, inner, st.sampled_from("+-*"), inner),
                    max_leaves=6))  # fmt: skip
def test_shortening_keeps_the_value(expression: str) -> None:
    """Whatever is dropped, the value is exactly the same, and nothing is left to drop."""
    short = shorten(expression)
    assert calculate(short) == calculate(expression)
    assert shorten(short) == short and len(short) <= len(expression)


def test_demonstrations_of_real_rows_are_worth_one(real_tasks: Sequence[Task]) -> None:
    """Of single calculations, all are answered right, and with what the calculator showed: except in
    GSM8K, whose chains often leave steps out, and in one row of SVAMP, whose result is wrong."""
    departing = set()
    for task in real_tasks:
        if len(data.calculations(task.data["chain"])) == 1:
            *_, tool, answer = demonstrate(task.data).messages
            assert reward.score(task.data, answer["content"])["reward"] == 1.0
            if task.data["source"] != "gsm8k" and answer["content"] != f"### {tool['content']} ###":
                departing.add(task.id)
    assert departing <= {"svamp__chal-680"}
