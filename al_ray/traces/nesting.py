"""How the spans of one attempt enclose each other, and which call each of them belongs to.

Order is the store's sequence number, never a clock. A span that arrived twice counts once, and so does a
call that the gateway and the agent's telemetry both saw (``trace_merge``). *Noise*, a
span that is neither call nor reward nor a known operation (an HTTP request, a health check, a database
query), encloses nothing: what it holds belongs to what encloses the noise.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from al_ray.traces import messages, semconv
from al_ray.traces.twins import merged
from al_ray.types import JSON, Span, SpanKind

TOOL: Final = "execute_tool"
OPERATIONS: Final = frozenset({TOOL, "invoke_agent", "create_agent", "invoke_workflow", "chat", "operation"})
"""The known operations, in OpenTelemetry's words for agents."""


@dataclass(frozen=True, slots=True)
class Earner:
    """The call that something belongs to, and which of its choices where that is told."""

    call: Span
    choice: int | None = None


class Nesting:
    """The spans of one attempt: each once, in order, and with what is around it."""

    def __init__(self, recorded: Iterable[Span]) -> None:
        self._by_id = {span.id: span for span in merged(recorded)}
        self._twins = _twins(self._by_id)
        self._seen_as: dict[str, list[Span]] = {}
        for twin, call in self._twins.items():
            self._seen_as.setdefault(call.id, []).append(self._by_id[twin])
        self.spans: Sequence[Span] = [s for s in self._by_id.values() if s.id not in self._twins]
        self.calls: Sequence[Span] = [span for span in self.spans if span.kind is SpanKind.CALL]
        self._parents = self._told_parents()
        self._calls_in: dict[str, list[Span]] = {}
        for call in self.calls:
            for around in self.enclosing(call):
                self._calls_in.setdefault(around.id, []).append(call)
        self._askers = _askers(self.calls)
        self._agents_of_trace: dict[str, set[str]] = {}
        for span in self.spans:
            if name := span.attributes.get(semconv.AGENT_NAME):
                trace = str(span.attributes.get(semconv.TRACE_ID, ""))
                self._agents_of_trace.setdefault(trace, set()).add(str(name))

    def enclosing(self, span: Span) -> Iterator[Span]:
        """The operations and calls around ``span``, innermost first."""
        for outer in self._ancestors(span):
            known = self._twins.get(outer.id, outer)
            if known is not span and (known.kind is SpanKind.CALL or is_operation(known)):
                yield known

    def agent(self, call: Span) -> str:
        """The agent's name: the call's own, else that of the nearest operation around it that has one;
        where the chain of parents is broken, that of the trace's only agent. Else empty."""
        for around in (call, *self._seen_as.get(call.id, ()), *self.enclosing(call)):
            if name := around.attributes.get(semconv.AGENT_NAME):
                return str(name)
        *_, outermost = (call, *self._ancestors(call))
        agents = self._agents_of_trace.get(str(call.attributes.get(semconv.TRACE_ID, "")), set())
        broken = outermost.id in self._parents
        return str(*agents) if broken and len(agents) == 1 else ""

    def linked(self, span: Span) -> Earner | None:
        """The call that ``span`` names, else the one that its place among the operations gives: from
        the innermost operation outwards, the last call before ``span`` within it, else the call that
        asked for this execution of a tool."""
        if named := self._named(str(span.attributes.get(semconv.REWARD_CALL, ""))):
            return named
        for around in (span, *self.enclosing(span)):
            if around.kind is SpanKind.CALL:
                return Earner(around)
            if call := _last_before(self._calls_in.get(around.id, ()), span):
                return Earner(call)
            if asker := self.asker(around.attributes.get(semconv.TOOL_CALL_ID), span):
                return asker
        return None

    def earner(self, span: Span) -> Earner | None:
        """The call that ``span`` is linked to, else the last one before it."""
        if linked := self.linked(span):
            return linked
        before = _last_before(self.calls, span)
        return Earner(before) if before else None

    def is_terminal(self, span: Span) -> bool:
        """Whether it came after the last call, and for no call in particular."""
        last = self.calls[-1].sequence if self.calls else -1
        return span.sequence > last and self.linked(span) is None

    def asker(self, tool_call: JSON, span: Span) -> Earner | None:
        """The choice that asked for the tool call of this id, the last one before ``span``."""
        asked = self._askers.get(tool_call, ()) if isinstance(tool_call, str) else ()
        return next((earner for earner in asked if earner.call.sequence < span.sequence), None)

    def _ancestors(self, span: Span) -> Iterator[Span]:
        """Whatever is around it, as far as it arrived; a circle is walked once."""
        passed = {span.id}
        outer = self._by_id.get(self._parents.get(span.id, ""))
        while outer is not None and outer.id not in passed:
            passed.add(outer.id)
            yield outer
            outer = self._by_id.get(self._parents.get(outer.id, ""))

    def _told_parents(self) -> Mapping[str, str]:
        """By id. What encloses a call's twin encloses the call, unless the call has a parent itself."""
        told = {id: span.attributes.get(semconv.PARENT_ID) for id, span in self._by_id.items()}
        parents = {id: str(parent) for id, parent in told.items() if parent}
        for twin, call in self._twins.items():
            if twin in parents:
                parents.setdefault(call.id, parents[twin])
        return parents

    def _named(self, name: str) -> Earner | None:
        """From ``CALL`` or ``CALL/INDEX``."""
        head, _, index = name.rpartition("/")
        for call_id, choice in ((name, None), (head, int(index) if index.isdecimal() else None)):
            span = self._twins.get(call_id) or self._by_id.get(call_id)
            if span is not None and span.kind is SpanKind.CALL:
                return Earner(span, choice)
        return None


def is_operation(span: Span) -> bool:
    """Whether it is one of the known operations, which enclose what happens in them."""
    return str(span.attributes.get(semconv.OPERATION)) in OPERATIONS


def _twins(spans: Mapping[str, Span]) -> Mapping[str, Span]:
    """The calls that the agent's telemetry saw too: its span's id, and the gateway's span."""
    recorded = {id: span for id, span in spans.items() if semconv.CHOICES in span.attributes}
    seen = ((id, recorded.get(str(span.attributes.get(semconv.RESPONSE_ID)))) for id, span in spans.items())
    return {id: call for id, call in seen if call is not None and call.id != id}


def _askers(calls: Sequence[Span]) -> Mapping[str, Sequence[Earner]]:
    """Who asked for a tool call, by its id; the latest first."""
    askers: dict[str, list[Earner]] = {}
    for call in reversed(calls):
        for index, answer in enumerate(messages.answers(call)):
            for asked in messages.tool_calls(answer):
                askers.setdefault(str(asked.get("id")), []).append(Earner(call, index))
    return askers


def _last_before(calls: Sequence[Span], span: Span) -> Span | None:
    position = bisect_left(calls, span.sequence, key=lambda call: call.sequence)
    return calls[position - 1] if position else None
