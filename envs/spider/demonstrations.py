"""Demonstrations: one call of one role with a perfect model, the gold query being what it would write.

Which role a task shows follows from its question, in the proportions of ``CASES``. What the checker finds
and the rewriter corrects is the gold query with a name misspelt.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any, Literal

from al_ray.envs.spider import agent
from al_ray.envs.spider.sql_text import tidy, tokens
from al_ray.protocols import Demonstration

Case = Literal["write", "accept", "reject", "rewrite"]
CASES: tuple[Case, ...] = ("write", "accept", "write", "rewrite", "write", "accept", "write", "reject")


def demonstrate(task: Mapping[str, Any]) -> Demonstration:
    """What the role is shown, and its reply."""
    gold = tidy(task["query"])
    case = CASES[zlib.crc32(f"{task['db_id']}: {task['question']}".encode()) % len(CASES)]
    if case == "write":
        return _call("writer", task, gold)
    if case == "accept":
        return _call("checker", {**task, "query": gold, "result": _result(task, gold)}, agent.CORRECT)
    wrong = misspelt(gold, task["schema"])
    result = _result(task, wrong)
    if not result.startswith("error: "):  # there is such a name
        return _call("writer", task, gold)
    shown = {**task, "query": wrong, "result": result}
    feedback = f"The query fails: {result.removeprefix('error: ')}."
    if case == "reject":
        return _call("checker", shown, feedback)
    return _call("rewriter", {**shown, "feedback": feedback}, gold)


def misspelt(query: str, schema: str) -> str:
    """The query with an ``s`` after the first name that it takes from the schema."""
    names = set(re.findall(r"\w+", schema.lower()))
    texts = [token.text for token in tokens(query)]
    for position, token in enumerate(tokens(query)):
        if token.is_word(*names):
            texts[position] += "s"
            break
    return "".join(texts)


def _call(role: str, state: Mapping[str, Any], reply: str) -> Demonstration:
    return Demonstration([*agent.prompt(role, state), {"role": "assistant", "content": reply}], agent=role)


def _result(task: Mapping[str, Any], query: str) -> str:
    return agent.look(task["database"], query, task["budget"])
