"""Demonstrations: a row's chain of calculations as the conversation of this agent with a perfect model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from al_ray.envs.calc_x import agent, reward
from al_ray.envs.calc_x.calculator import CalculatorError, calculate, tokenize
from al_ray.envs.calc_x.data import calculations
from al_ray.errors import DataError, Problem
from al_ray.protocols import Demonstration


def demonstrate(task: Mapping[str, Any]) -> Demonstration:
    """One call of the calculator per message, then the answer.

    The answer is what the calculator showed last, as long as that is right (it may be a rounded
    ``2/3``), else the row's ``result``.
    """
    messages = agent.opening(task["question"])
    for number, written in enumerate(calculations(task["chain"])):
        try:
            expression = shorten(written)
        except CalculatorError as error:
            cure = f"{error}; leave such rows out by the options `sources` or `max_calls`"
            raise DataError(Problem(f"chain of {task['id']}", written, cure)) from error
        call = _tool_call(f"call_{number}", expression)
        messages.append({"role": "assistant", "tool_calls": [call]})
        messages.append(agent.tool_message(call["id"], **call["function"]))
    last = messages[-1]
    copied = last["role"] == "tool" and reward.same(last["content"], task["result"])
    answer = last["content"] if copied else task["result"].split(" = around ")[0]
    messages.append({"role": "assistant", "content": f"### {answer} ###"})
    return Demonstration(messages, [agent.CALCULATOR])


def shorten(expression: str) -> str:
    """The same value in fewer characters: ``( 22.0 - 14.0 )/4.0`` is ``(22-14)/4``."""
    tokens = [_plain(token) for token in tokenize(expression)]
    while _wrapped(tokens):
        tokens = tokens[1:-1]
    short = "".join(tokens)
    if calculate(short) != calculate(expression):
        raise CalculatorError(f"shortened to {short!r}, which has another value")
    return short


def _tool_call(call_id: str, expression: str) -> dict[str, Any]:
    arguments = json.dumps({"expression": expression})
    return {"id": call_id, "type": "function", "function": {"name": "calculator", "arguments": arguments}}


def _plain(token: str) -> str:
    """``22.0`` as ``22``, ``.50`` as ``0.5``; the value stays."""
    if not re.search(r"[0-9]", token):
        return token
    whole, _, fraction = token.partition(".")
    fraction = fraction.rstrip("0")
    whole = whole.lstrip("0") or "0"
    return f"{whole}.{fraction}" if fraction else whole


def _wrapped(tokens: list[str]) -> bool:
    """Whether the first parenthesis is closed by the last token."""
    depth = 0
    for position, token in enumerate(tokens):
        depth += (token == "(") - (token == ")")
        if depth == 0:
            return tokens[0] == "(" and position == len(tokens) - 1
    return False
