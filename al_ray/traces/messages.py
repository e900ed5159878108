"""The chat messages of a call's span, in the OpenAI shape. What has another shape is passed over: a
call that only the agent's own telemetry saw may carry anything there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import orjson

from al_ray.traces import semconv
from al_ray.types import JSON, Span

Message = Mapping[str, JSON]


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


def _mappings(found: JSON) -> Sequence[Message]:
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []
