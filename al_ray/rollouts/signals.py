"""What can be told of a response without knowing the task: what became of its tool calls, which of them
are malformed or repeated, exceptions, time-outs, truncation.

Pure functions. What became of a tool call is read from the spans of tools, where the agent sends them,
and from the tool messages in later calls; where both tell, the worse counts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from al_ray.rollouts import tool_results
from al_ray.rollouts.tool_results import ToolStatus, of_error, of_span
from al_ray.traces import messages, semconv
from al_ray.traces.messages import Message, tool_calls
from al_ray.traces.nesting import Earner, Nesting
from al_ray.traces.twins import TOOL
from al_ray.types import Signals, Span

Response = tuple[str, int]
"""A call's id, and the index of one of its choices."""

_COUNTED: Final = {
    ToolStatus.OK: "tool_ok",
    ToolStatus.EMPTY: "empty_results",
    ToolStatus.ERROR: "tool_errors",
    ToolStatus.TIMEOUT: "timeouts",
}
_UNPARSED: Final = re.compile(r"<tool_call>|<function=|<\|python_tag\|>|\[TOOL_CALLS\]")
"""How models begin a tool call: it is in the text if the parser could not read what followed."""
_Execution = tuple[str, int | None, str]
"""Of a tool: the call that it belongs to, which of its choices, and the tool call's id, else its span's."""


@dataclass(frozen=True, slots=True)
class _ToolCall:
    """What a choice asked for."""

    earner: Earner
    id: str
    name: str
    arguments: str


def signals(nesting: Nesting) -> Mapping[Response, Signals]:
    """By response; one that is absent has none. What is known of a call, but not of which of its
    choices, counts with the last of them."""
    counted: defaultdict[Response, Counter[str]] = defaultdict(Counter)
    for call in nesting.calls:
        for index, found in enumerate(_own(call)):
            counted[call.id, index] += found
    happened = [(earner, _COUNTED[status]) for earner, status in _executions(nesting)]
    for earner, name in (*happened, *_exceptions(nesting)):
        last = max(len(messages.answers(earner.call)) - 1, 0)
        counted[earner.call.id, last if earner.choice is None else earner.choice][name] += 1
    return {response: Signals(**counts) for response, counts in counted.items()}


def _own(call: Span) -> Iterator[Counter[str]]:
    """What the call itself tells of each of its responses."""
    offered = messages.offered_tools(call)
    asked_before = {_asked(asked) for message in messages.sent(call) for asked in tool_calls(message)}
    for answer, reason in zip_longest(messages.answers(call), messages.finish_reasons(call)):
        if reason == "length":
            yield Counter(truncated=1)  # and its tool calls are cut short rather than malformed
            continue
        found = Counter[str]()
        asked_here = [_asked(asked) for asked in tool_calls(answer or {})]
        for position, (name, arguments) in enumerate(asked_here):
            if not arguments.startswith("{") or (offered and name not in offered):
                found["malformed_calls"] += 1
            if (name, arguments) in asked_before or (name, arguments) in asked_here[:position]:
                found["repeated_calls"] += 1
        if offered and _UNPARSED.search(messages.text((answer or {}).get("content"))):
            found["malformed_calls"] += 1
        yield found


def _executions(nesting: Nesting) -> Iterable[tuple[Earner, ToolStatus]]:
    """How each execution of a tool ended, with the call that asked for it."""
    worst: dict[_Execution, tuple[Earner, ToolStatus]] = {}
    for call in nesting.calls:
        for message in messages.sent(call):
            asked = message.get("tool_call_id") if message.get("role") == "tool" else None
            asker = nesting.asker(asked, call)
            # Every later call shows the message again.
            if asker and (key := _key(asker, str(asked))) not in worst:
                worst[key] = (asker, tool_results.of_message(message))
    told = _told_by_spans(nesting)
    for span in nesting.spans:
        execution = _execution(nesting, span)
        if execution and execution.id in told:
            earner, id = told[execution.id]
            key = _key(earner, id)
            worst[key] = (earner, max(of_span(span), worst.get(key, (earner, ToolStatus.OK))[1]))
    return worst.values()


def _told_by_spans(nesting: Nesting) -> Mapping[str, tuple[Earner, str]]:
    """By the id of each execution's span, who asked for it, and the tool call's id: that which the span has,
    else that of the likeliest tool call of which no span has told. Where none fits, whose it is, and the
    span's own id."""
    found: dict[str, tuple[Earner, str]] = {}
    waiting = [
        _ToolCall(Earner(call, index), str(asked.get("id")), *_asked(asked))
        for call in nesting.calls
        for index, answer in enumerate(messages.answers(call))
        for asked in tool_calls(answer)
    ]
    for span in nesting.spans:
        if span.attributes.get(semconv.OPERATION) != TOOL:
            continue
        id = span.attributes.get(semconv.TOOL_CALL_ID)
        asker, earner = nesting.asker(id, span), nesting.earner(span)
        if asker:
            found[span.id] = asker, str(id)
        elif earner:
            asked = _likeliest(waiting, span, earner)
            found[span.id] = (asked.earner, asked.id) if asked else (earner, span.id)
        else:
            continue
        waiting = [each for each in waiting if _key(each.earner, each.id) != _key(*found[span.id])]
    return found


def _likeliest(waiting: Sequence[_ToolCall], execution: Span, earner: Earner) -> _ToolCall | None:
    """Of the tool calls before the execution, one of its name and arguments: its earner's, else the latest,
    for a span may arrive after the next call. Else one of its earner's of its name: a function may be called
    with more than the model asked for."""
    attributes = execution.attributes
    function = {
        "name": attributes.get(semconv.TOOL_NAME),
        "arguments": attributes.get(semconv.TOOL_CALL_ARGUMENTS),
    }
    name, arguments = _asked({"function": function})

    def likeness(asked: _ToolCall) -> tuple[bool, bool, int]:
        call = asked.earner.call
        return asked.arguments == arguments, call.id == earner.call.id, call.sequence

    fitting = [
        each
        for each in waiting
        if each.name == name and each.earner.call.sequence < execution.sequence and any(likeness(each)[:2])
    ]
    return max(fitting, key=likeness, default=None)


def _exceptions(nesting: Nesting) -> Iterator[tuple[Earner, str]]:
    """Those outside of tools. One that several operations recorded on its way out counts once."""
    seen = set()
    for span in nesting.spans:
        earner = nesting.earner(span) if semconv.EXCEPTION_TYPE in span.attributes else None
        if earner is None:
            continue
        kind = str(span.attributes[semconv.EXCEPTION_TYPE])
        exception = (earner.call.id, kind, str(span.attributes.get(semconv.EXCEPTION_MESSAGE)))
        if _execution(nesting, span) is None and exception not in seen:
            yield earner, "timeouts" if of_error(kind) is ToolStatus.TIMEOUT else "exceptions"
        seen.add(exception)


def _execution(nesting: Nesting, span: Span) -> Span | None:
    """The execution of a tool that the span is, or the one in which this exception was raised."""
    if span.attributes.get(semconv.OPERATION) == TOOL:
        return span
    inside = next(nesting.enclosing(span), None) if semconv.EXCEPTION_TYPE in span.attributes else None
    return inside if inside is not None and inside.attributes.get(semconv.OPERATION) == TOOL else None


def _key(earner: Earner, id: str) -> _Execution:
    return earner.call.id, earner.choice, id


def _asked(tool_call: Message) -> tuple[str, str]:
    """Name and arguments; the same arguments are the same text, and those that are JSON begin so."""
    function = tool_call["function"]
    name, arguments = str(function.get("name")), function.get("arguments")
    canonical = messages.canonical_arguments(arguments)
    return name, f"not JSON: {arguments}" if canonical is None else canonical
