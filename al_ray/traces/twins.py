"""One call, seen twice: by the gateway, which knows its tokens, and by the agent's own telemetry, which
knows whose call it was. Pure functions of the spans of one attempt.

``merged`` gives back the same spans, in the store's order, in which

- every span of the telemetry that saw a call of the gateway (its *twin*) names it under
  ``gen_ai.response.id``. A twin is no call: only the gateway's spans have ``SpanKind.CALL``;
- every call has the name of its agent under ``gen_ai.agent.name``, if it can be told: its own, else its
  twin's, else that of the nearest span around it;
- every call whose twin has a parent has that parent under ``al_ray.parent_id``, unless it told its own.
  Ids and parents of all spans of an attempt so make one tree; a parent that never arrived is a root.

A twin is known by the response's id; else by the call's ``traceparent``, which lies within it; else by
time and content, if exactly one call within its time has its answer and it is the only such span.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import orjson

from al_ray.traces import semconv
from al_ray.types import JSON, Span, SpanKind

_MODEL_OPERATIONS: Final = frozenset({"chat", "text_completion", "generate_content"})
_CLOCK_SECONDS: Final = 1.0
"""Two machines' clocks may differ by so much."""
_ANSWER: Final = re.compile(r"llm\.output_messages\.(\d+)\.message\.(.*)")
_TOOL: Final = re.compile(r"tool_calls\.(\d+)\.tool_call\.function\.(name|arguments)")

_Answer = tuple[str, tuple[tuple[str, str], ...]]
"""Text and tool calls, as far as two tellings of them agree."""


def merged(recorded: Iterable[Span]) -> list[Span]:
    """See the module; a span that arrived twice counts once."""
    spans: dict[str, Span] = {}
    for span in sorted(recorded, key=lambda span: span.sequence):
        spans.setdefault(span.id, span)
    twins = _twins(spans)
    for twin_id, call_id in twins.items():
        twin, call = spans[twin_id], spans[call_id]
        spans[twin_id] = replace(twin, attributes={**twin.attributes, semconv.RESPONSE_ID: call_id})
        parent = _told(twin, semconv.PARENT_ID)
        if parent and semconv.PARENT_ID not in call.attributes:
            trace = {name: twin.attributes[name] for name in (semconv.TRACE_ID,) if name in twin.attributes}
            spans[call_id] = replace(call, attributes={**call.attributes, **trace, semconv.PARENT_ID: parent})
    twin_of = {call_id: twin_id for twin_id, call_id in reversed(twins.items())}
    for span in [span for span in spans.values() if _is_call(span)]:
        if name := _agent(spans, span, spans.get(twin_of.get(span.id, ""))):
            spans[span.id] = replace(span, attributes={**span.attributes, semconv.AGENT_NAME: name})
    return list(spans.values())


def _agent(spans: Mapping[str, Span], call: Span, twin: Span | None) -> str:
    seen = [call] if twin is None else [call, twin]
    around = (outer for span in reversed(seen) for outer in _around(spans, span) if not _is_call(outer))
    names = (_told(span, semconv.AGENT_NAME) for span in (*seen, *around))
    return next(filter(None, names), "")


def _around(spans: Mapping[str, Span], span: Span) -> Iterator[Span]:
    """What encloses ``span``, innermost first; a circle is walked once."""
    passed = {span.id}
    outer = spans.get(_told(span, semconv.PARENT_ID))
    while outer is not None and outer.id not in passed:
        passed.add(outer.id)
        yield outer
        outer = spans.get(_told(outer, semconv.PARENT_ID))


def _twins(spans: Mapping[str, Span]) -> dict[str, str]:
    """Calls by the ids of their twins."""
    calls = {id: span for id, span in spans.items() if _is_call(span)}
    seen = [span for span in spans.values() if _saw_a_call(span)]
    twins = {span.id: _response(span) for span in seen if _response(span) in calls}
    # Spans that name no response, or that of another provider's model: not ours to guess.
    unnamed = {span.id: span for span in seen if not _response(span)}
    named = set(twins.values())
    for call in calls.values():
        within = next((outer for outer in _around(spans, call) if _saw_a_call(outer)), None)
        if call.id not in named and within is not None and within.id in unnamed:
            twins[within.id] = call.id  # of a call that was tried again, the last answer is what it saw
    named = set(twins.values())
    rest = [span for id, span in unnamed.items() if id not in twins]
    return twins | _alike(rest, [call for id, call in calls.items() if id not in named])


def _saw_a_call(span: Span) -> bool:
    asks = bool(_response(span)) or _told(span, semconv.OPERATION) in _MODEL_OPERATIONS
    return asks and not _is_call(span)


def _is_call(span: Span) -> bool:
    return span.kind is SpanKind.CALL


def _response(span: Span) -> str:
    return _told(span, semconv.RESPONSE_ID)


def _told(span: Span, name: str) -> str:
    """An attribute that is a text; empty where it is absent or anything else."""
    value = span.attributes.get(name)
    return value if isinstance(value, str) else ""


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


def _told_answer(span: Span) -> _Answer | None:
    """The first answer that the telemetry tells of; None if it tells of none."""
    if messages := _list(span, semconv.OUTPUT_MESSAGES):
        return _answer(messages[0])
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


def _answer(message: Mapping[str, JSON]) -> _Answer:
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
    return text.strip(), tuple((str(call.get("name")), _canonical(call.get("arguments"))) for call in asked)


def _canonical(arguments: JSON) -> str:
    """The same text for the same arguments, whether they are told as JSON or as a value."""
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return arguments
    return orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS).decode()
