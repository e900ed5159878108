"""One call, seen twice: by the gateway, which knows its tokens, and by the agent's own telemetry, which
knows whose call it was. The telemetry's span is the call's *twin*; ``Nesting`` makes one call of the two.

A twin is of a call to a model, or of no known operation. It is known by the response's id; else by the call's
``traceparent``, which lies within it; else by time and content, if exactly one call within its time has its
answer and it is the only such span. A twin is no call: only the gateway's spans have ``SpanKind.CALL``. A
reward that names a response is about the call and did not see it, unless it is told on the telemetry's span
of that call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import orjson

from al_ray.traces import messages, semconv
from al_ray.types import JSON, Span, SpanKind

TOOL: Final = "execute_tool"
OPERATIONS: Final = frozenset({TOOL, "invoke_agent", "create_agent", "invoke_workflow", "chat", "operation"})
"""The known operations, in OpenTelemetry's words for agents."""

_MODEL_OPERATIONS: Final = frozenset({"chat", "text_completion", "generate_content"})
_CLOCK_SECONDS: Final = 1.0
"""Two machines' clocks may differ by so much."""
_ANSWER: Final = re.compile(r"llm\.output_messages\.(\d+)\.message\.(.*)")
_TOOL: Final = re.compile(r"tool_calls\.(\d+)\.tool_call\.function\.(name|arguments)")

_Said = tuple[str, tuple[tuple[str, str], ...]]
"""Text and tool calls, as far as two tellings of them agree."""


def told_parents(spans: Mapping[str, Span]) -> dict[str, str]:
    """Parents by the ids of those that name one, whether it arrived or not."""
    told = ((id, text(span, semconv.PARENT_ID)) for id, span in spans.items())
    return {id: parent for id, parent in told if parent}


def ancestors(span: Span, spans: Mapping[str, Span], parents: Mapping[str, str]) -> Iterator[Span]:
    """Whatever is around ``span``, innermost first, as far as it arrived; a circle is walked once."""
    passed = {span.id}
    outer = spans.get(parents.get(span.id, ""))
    while outer is not None and outer.id not in passed:
        passed.add(outer.id)
        yield outer
        outer = spans.get(parents.get(outer.id, ""))


def twins(spans: Mapping[str, Span], parents: Mapping[str, str]) -> dict[str, str]:
    """Calls by the ids of their twins; ``spans``, by their ids, are in the store's order."""
    calls = {id: span for id, span in spans.items() if _is_call(span)}
    seen = [span for span in spans.values() if _saw_a_call(span)]
    found = {span.id: _response(span) for span in seen if _response(span) in calls}
    # Spans that name no response, or that of another provider's model: not ours to guess.
    unnamed = {span.id: span for span in seen if not _response(span)}
    named = set(found.values())
    for call in calls.values():
        within = next((outer for outer in ancestors(call, spans, parents) if _saw_a_call(outer)), None)
        if call.id not in named and within is not None and within.id in unnamed:
            found[within.id] = call.id  # of a call that was tried again, the last answer is what it saw
    named = set(found.values())
    rest = [span for id, span in unnamed.items() if id not in found]
    return found | _alike(rest, [call for id, call in calls.items() if id not in named])


def text(span: Span, name: str) -> str:
    """An attribute that is a text; empty where it is absent or anything else."""
    value = span.attributes.get(name)
    return value if isinstance(value, str) else ""


def _saw_a_call(span: Span) -> bool:
    operation = text(span, semconv.OPERATION)
    if operation in _MODEL_OPERATIONS:
        return not _is_call(span)
    # An agent or a tool may name a response too: the last one in it, or the one that asked for it.
    return span.kind is SpanKind.EVENT and operation not in OPERATIONS and bool(_response(span))


def _is_call(span: Span) -> bool:
    return span.kind is SpanKind.CALL


def _response(span: Span) -> str:
    return text(span, semconv.RESPONSE_ID)


def _alike(seen: Sequence[Span], calls: Sequence[Span]) -> dict[str, str]:
    """The pairs of which neither could be of another pair."""
    said = {call.id: {_answer(message) for message in _list(call, semconv.OUTPUT_MESSAGES)} for call in calls}
    fits: dict[str, list[str]] = {}
    for span in seen:
        answer = _told_answer(span)
        if answer is not None:
            fits[span.id] = [call.id for call in calls if answer in said[call.id] and _during(call, span)]
    claims = [id for candidates in fits.values() for id in candidates]
    return {
        span_id: candidates[0]
        for span_id, candidates in fits.items()
        if len(candidates) == 1 and claims.count(candidates[0]) == 1
    }


def _during(call: Span, span: Span) -> bool:
    return span.start - _CLOCK_SECONDS <= call.start and call.end <= span.end + _CLOCK_SECONDS


def _told_answer(span: Span) -> _Said | None:
    """The first answer that the telemetry tells of; None if it tells of none."""
    if answers := _list(span, semconv.OUTPUT_MESSAGES):
        return _answer(answers[0])
    message: dict[str, JSON] = {}
    tools: dict[str, dict[str, JSON]] = {}
    for key, value in span.attributes.items():
        found = _ANSWER.fullmatch(key)
        if found is None or found[1] != "0":
            continue
        if tool := _TOOL.fullmatch(found[2]):
            tools.setdefault(tool[1], {})[tool[2]] = value
        else:
            message[found[2]] = value
    return (
        _answer({**message, "tool_calls": [{"function": tool} for tool in tools.values()]})
        if message
        else None
    )


def _list(span: Span, name: str) -> list[Mapping[str, JSON]]:
    value = span.attributes.get(name)
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return []
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _answer(message: Mapping[str, JSON]) -> _Said:
    """From a message in OpenAI's shape, or in OpenTelemetry's with its parts."""
    content, parts = message.get("content"), message.get("parts")
    pieces = [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    if isinstance(content, list):
        pieces = [part for part in content if isinstance(part, Mapping)]
    text = content if isinstance(content, str) else ""
    text += "".join(
        str(part.get("content") or part.get("text") or "") for part in pieces if part.get("type") == "text"
    )
    asked = [part for part in pieces if part.get("type") == "tool_call"]
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            asked.append(function)
    return text.strip(), tuple((str(call.get("name")), _arguments(call)) for call in asked)


def _arguments(call: Mapping[str, JSON]) -> str:
    told = call.get("arguments")
    canonical = messages.canonical_arguments(told)
    return str(told) if canonical is None else canonical
