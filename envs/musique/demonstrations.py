"""Demonstrations: a row's hops as the conversation of this agent with a perfect model.

It makes one search a hop, is shown the gold passage, and answers with what it found on the way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from al_ray.envs.musique import agent
from al_ray.protocols import Demonstration

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "",
            "parameters": agent.PARAMETERS,
            "strict": True,
        },
    }
]
"""As the SDK offers the agent's tool to the model."""


def demonstrate(task: Mapping[str, Any]) -> Demonstration:
    """The steps of the row, then ``final``."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": agent.INSTRUCTIONS},
        {"role": "user", "content": task["question"]},
    ]
    for number, step in enumerate(task["steps"]):
        call = {"name": "search", "arguments": json.dumps({"query": step["query"]}, ensure_ascii=False)}
        tool_call = {"id": f"call_{number}", "type": "function", "function": call}
        messages.append({"role": "assistant", "tool_calls": [tool_call]})
        content = agent.shown([step], task["passage_chars"])
        messages.append({"role": "tool", "tool_call_id": tool_call["id"], "content": content})
    messages.append({"role": "assistant", "content": final(task)})
    return Demonstration(messages, TOOLS)


def final(task: Mapping[str, Any]) -> str:
    """The last message: what each search found, and the answer."""
    findings = ", ".join(step["finding"] for step in task["steps"])
    return f"<think>{findings}</think><answer>{task['answer']}</answer>"
