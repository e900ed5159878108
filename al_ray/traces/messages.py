"""The chat messages of a call's span, in the OpenAI shape, and when two of them say the same. What has
another shape is passed over: a call that only the agent's own telemetry saw may carry anything there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from datetime import date
from typing import Final

import orjson

from al_ray.traces import semconv, volatile
from al_ray.types import JSON, Span

Message = Mapping[str, JSON]
SYSTEM: Final = ("system", "developer")
"""The roles whose messages tell the model what it is."""


def sent(call: Span) -> Sequence[Message]:
    """What the model was shown."""
    return _mappings(call.attributes.get(semconv.INPUT_MESSAGES))


def answers(call: Span) -> Sequence[Message]:
    """What it said, a message a choice."""
    return _mappings(call.attributes.get(semconv.OUTPUT_MESSAGES))


def tool_calls(message: Message) -> Sequence[Message]:
    """The tool calls that the message asks for; each has a ``function``."""
    return [
        asked for asked in _mappings(message.get("tool_calls")) if isinstance(asked.get("function"), Mapping)
    ]


def offered_tools(call: Span) -> Set[str]:
    """The names of the tools that the model was offered; their definitions may be flat, as in some APIs."""
    definitions = _mappings(call.attributes.get(semconv.TOOL_DEFINITIONS))
    functions = [tool.get("function", tool) for tool in definitions]
    return {str(function.get("name")) for function in _mappings(functions)}


def finish_reasons(call: Span) -> Sequence[str]:
    """One a choice."""
    found = call.attributes.get(semconv.FINISH_REASONS)
    return [str(reason) for reason in found] if isinstance(found, list) else []


def text(content: JSON) -> str:
    """Of a message's content: text, or a list of parts of which some are text."""
    if isinstance(content, str):
        return content
    return "\n".join(text(part.get("text")) for part in _mappings(content))


def thought(message: Message) -> JSON:
    """What was thought before it, by either of the names that servers have for that; nothing where it is not
    told."""
    return message.get("reasoning") or message.get("reasoning_content")


def as_delta(message: Message) -> dict[str, JSON]:
    """All that a whole answer says, as the ``delta`` of one chunk."""
    told = {name: value for name, value in message.items() if value and name not in ("role", "tool_calls")}
    calls = message.get("tool_calls") or ()
    return told | ({"tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]} if calls else {})


def canonical(message: Message, day: date | None = None, *, reasoning: bool = True) -> dict[str, JSON]:
    """What ``message``, sent on that day (None: today), says; two messages that say the same may differ in
    all else. It is the text, in one piece or in parts, and the tool calls by name and arguments: without ids,
    layout of JSON, white space around an answer, and the clock in what the system says (``volatile``). Most
    agents send no ``reasoning`` back: without it, answers are the same whatever was thought before them."""
    content = message.get("content")
    content = _whole(volatile.without(content, day) if message.get("role") in SYSTEM else content)
    if message.get("role") != "assistant":
        return {"role": message.get("role"), "content": content, "name": message.get("name")}
    return {
        "role": "assistant",
        "content": _stripped(content),
        "reasoning": _stripped(_whole(thought(message))) if reasoning else "",
        "tool_calls": _calls(message.get("tool_calls")),
    }


def said(message: Message, call: Span, *, reasoning: bool = False) -> str:
    """The same text for messages that say the same, each told by its call."""
    told = canonical(message, date.fromtimestamp(call.start), reasoning=reasoning)
    return json.dumps(told, sort_keys=True)


def put_back(ours: Message, theirs: Message) -> Message:
    """An answer as the model said it, under the names and ids of an agent that sends the same."""
    message = dict(ours)
    if theirs.get("name"):
        message["name"] = theirs["name"]
    if ours.get("tool_calls"):
        message["tool_calls"] = [
            {**asked, "id": sent.get("id") or asked["id"], "function": dict(asked["function"])}
            for asked, sent in zip(ours["tool_calls"], theirs["tool_calls"], strict=True)
        ]
    return message


def canonical_arguments(arguments: JSON) -> str | None:
    """The same text for the same arguments of a tool call, told as JSON or as a value. None: they are no
    JSON, or nested deeper than anybody reads."""
    try:
        parsed = orjson.loads(arguments) if isinstance(arguments, str) else arguments
        return orjson.dumps(parsed, option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None


def without_ids(value: JSON) -> JSON:
    """Messages without the ids of calls and tools, which are others in every run."""
    if isinstance(value, Mapping):
        return {k: without_ids(v) for k, v in value.items() if k not in ("id", "tool_call_id")}
    if isinstance(value, list | tuple):
        return [without_ids(item) for item in value]
    return value


def _whole(content: JSON) -> JSON:
    """A string where there is nothing but text, however it is wrapped."""
    if not isinstance(content, list):
        return content or ""
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "\n".join(texts) if len(texts) == len(parts) else content


def _stripped(content: JSON) -> JSON:
    return content.strip() if isinstance(content, str) else content


def _calls(calls: JSON) -> JSON:
    if not isinstance(calls, list) or not all(
        isinstance(call, Mapping) and isinstance(call.get("function"), Mapping) for call in calls
    ):
        return {"no calls": calls} if calls else []
    functions = [call["function"] for call in calls]
    return [[function.get("name"), _arguments(function.get("arguments"))] for function in functions]


def _arguments(arguments: JSON) -> JSON:
    """A tool that takes free text is a function of one string, ``input``. What else the model gives it, the
    agent is told as the text, and sends back within such an object: either is what stands in it."""
    try:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        value = json.loads(text or "{}", parse_float=_number)
        match value:
            case {"input": str(inner), **others} if not others:
                return _arguments(inner)
        return value
    except (ValueError, RecursionError):
        return arguments


def _number(text: str) -> float | int:
    """JavaScript writes 1.0 as 1."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _mappings(found: JSON) -> Sequence[Message]:
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []
