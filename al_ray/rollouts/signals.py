"""What can be told of a response without knowing the task: what became of its tool calls, which of them
are malformed or repeated, exceptions, time-outs, truncation.

Pure functions. What became of a tool call is read from the spans of tools, where the agent sends them,
and from the tool messages in later calls; where both tell, the worse counts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Final

from al_ray.rollouts import tool_results
from al_ray.rollouts.tool_results import ToolStatus, of_error, of_span
from al_ray.traces import messages, semconv
from al_ray.traces.messages import Message, tool_calls
from al_ray.traces.nesting import TOOL, Earner, Nesting
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
    worst: dict[tuple[str, int | None, str], tuple[Earner, ToolStatus]] = {}
    for call in nesting.calls:
        for message in messages.sent(call):
            asked = message.get("tool_call_id") if message.get("role") == "tool" else None
            asker = nesting.asker(asked, call)
            # Every later call shows the message again.
            if asker and (key := (asker.call.id, asker.choice, str(asked))) not in worst:
                worst[key] = (asker, tool_results.of_message(message))
    for span in nesting.spans:
        execution = _execution(nesting, span)
        asked = execution.attributes.get(semconv.TOOL_CALL_ID) if execution else None
        asker = nesting.asker(asked, span)
        earner = asker or (nesting.earner(execution) if execution else None)
        if execution and earner:
            key = (earner.call.id, earner.choice, str(asked) if asker else execution.id)
            worst[key] = (earner, max(of_span(span), worst.get(key, (earner, ToolStatus.OK))[1]))
    return worst.values()


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


def _asked(tool_call: Message) -> tuple[str, str]:
    """Name and arguments; the same arguments are the same text, and those that are JSON begin so."""
    function = tool_call["function"]
    name, arguments = str(function.get("name")), function.get("arguments")
    canonical = messages.canonical_arguments(arguments)
    return name, f"not JSON: {arguments}" if canonical is None else canonical
