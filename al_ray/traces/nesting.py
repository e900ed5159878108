"""How the spans of one attempt enclose each other, and which call each of them belongs to.

Order is the store's sequence number, never a clock. A span that arrived twice counts once, and so does a
call that the gateway and the agent's telemetry both saw (``twins``): it has the gateway's tokens, and the
place and the name that the telemetry tells of. A reward that the telemetry tells on its span of the call is
a span beside it. A parent that never arrived is a root. *Noise*, a span that is neither call nor reward nor a
known operation (an HTTP request, a health check, a database query), encloses nothing: what it holds belongs
to what encloses the noise.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from al_ray.traces import messages, semconv
from al_ray.traces.twins import OPERATIONS, ancestors, text, told_parents, twins
from al_ray.types import JSON, Span, SpanKind

_INDEX: Final = re.compile(r"[0-9]{1,4}")


@dataclass(frozen=True, slots=True)
class Earner:
    """The call that something belongs to, and which of its choices where that is told."""

    call: Span
    choice: int | None = None


class Nesting:
    """The spans of one attempt: each once, in order, and with what is around it."""

    def __init__(self, recorded: Iterable[Span]) -> None:
        self._by_id: dict[str, Span] = {}
        for span in sorted(recorded, key=lambda span: span.sequence):
            self._by_id.setdefault(span.id, span)
        self._parents = told_parents(self._by_id)
        self.twins: Mapping[str, str] = twins(self._by_id, self._parents)
        """Calls by the ids of the spans that saw them."""
        self._seen_as: dict[str, Span] = {}
        for twin, call_id in self.twins.items():
            self._seen_as.setdefault(call_id, self._by_id[twin])
            if twin in self._parents:  # what encloses the twin encloses the call, unless that told otherwise
                self._parents.setdefault(call_id, self._parents[twin])
        self.spans: Sequence[Span] = [
            span for span in self._by_id.values() if span.id not in self.twins or span.kind is SpanKind.REWARD
        ]
        self.calls: Sequence[Span] = [span for span in self.spans if span.kind is SpanKind.CALL]
        self._enclosing = _Outward(self._by_id, self._parents, self._encloses)
        self._calls_in: dict[str, list[Span]] = {}
        for call in self.calls:
            for around in self.enclosing(call):
                self._calls_in.setdefault(around.id, []).append(call)
        self._askers = _askers(self.calls)
        self._linking = _Outward(self._by_id, self._parents, self._links)
        self._agents_of_trace: dict[str, set[str]] = {}
        for span in self.spans:
            is_call = span.kind is SpanKind.CALL
            if name := self._named_agent(span) if is_call else text(span, semconv.AGENT_NAME):
                self._agents_of_trace.setdefault(self._trace(span), set()).add(name)

    def around(self, span: Span) -> Iterator[Span]:
        """Whatever is around ``span``, noise too, innermost first."""
        return ancestors(span, self._by_id, self._parents)

    def enclosing(self, span: Span) -> Iterator[Span]:
        """The operations and calls around ``span``, innermost first."""
        outside = map(self._call_seen_by, self._enclosing.of(span))
        return (known for known in outside if known is not span)

    def agent(self, call: Span) -> str:
        """The agent's name: the call's own, else its twin's, else that of the nearest span around it that
        has one; where the chain of parents is broken, that of the trace's only agent. Else empty."""
        if name := self._named_agent(call):
            return name
        *_, outermost = (call, *self.around(call))
        agents = self._agents_of_trace.get(self._trace(call), set())
        broken = outermost.id in self._parents
        return str(*agents) if broken and len(agents) == 1 else ""

    def linked(self, span: Span) -> Earner | None:
        """The call that ``span`` names, as ours or by its response, else the one that its place among the
        operations gives: the call that it saw; from the innermost operation outwards, the last call before
        ``span`` within it, else the call that asked for this execution of a tool."""
        for name in (semconv.REWARD_CALL, semconv.RESPONSE_ID):
            if named := self._named(text(span, name)):
                return named
        for around in map(self._call_seen_by, chain([span], self._linking.of(span))):
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

    def _named_agent(self, call: Span) -> str:
        twin = self._seen_as.get(call.id)
        seen = [call] if twin is None else [call, twin]
        outside = (outer for span in reversed(seen) for outer in self.around(span))
        around = (each for outer in outside for each in (outer, self._call_seen_by(outer)))
        names = (text(span, semconv.AGENT_NAME) for span in (*seen, *around))
        return next(filter(None, names), "")

    def _trace(self, span: Span) -> str:
        twin = self._seen_as.get(span.id, span)
        return text(span, semconv.TRACE_ID) or text(twin, semconv.TRACE_ID)

    def _encloses(self, outer: Span) -> bool:
        known = self._call_seen_by(outer)
        return known.kind is SpanKind.CALL or is_operation(known)

    def _links(self, outer: Span) -> bool:
        """Whether what is in it may be linked to a call by that."""
        if not self._encloses(outer):
            return False
        known = self._call_seen_by(outer)
        is_call = known.kind is SpanKind.CALL
        return is_call or known.id in self._calls_in or text(known, semconv.TOOL_CALL_ID) in self._askers

    def _call_seen_by(self, span: Span) -> Span:
        """The call that ``span`` saw, if it saw one, else ``span``."""
        return self._by_id[self.twins.get(span.id, span.id)]

    def _named(self, name: str) -> Earner | None:
        """From ``CALL`` or ``CALL/INDEX``."""
        head, _, index = name.rpartition("/")
        told = int(index) if _INDEX.fullmatch(index) else None
        for call_id, choice in ((name, None), (head, told)):
            span = self._by_id.get(self.twins.get(call_id, call_id))
            if span is not None and span.kind is SpanKind.CALL:
                return Earner(span, choice)
        return None


class _Outward:
    """Those around a span for which ``counts`` holds. The others are passed once: a chain of parents may be
    as long as an attempt has spans, and each of them may be asked for."""

    def __init__(
        self, spans: Mapping[str, Span], parents: Mapping[str, str], counts: Callable[[Span], bool]
    ) -> None:
        self._spans = spans
        self._parents = parents
        self._counts = counts
        self._nearest: dict[str, str | None] = {}

    def of(self, span: Span) -> Iterator[Span]:
        """Innermost first, as far as they arrived; a circle is walked once."""
        passed = {span.id}
        outer = self._at_or_around(self._parents.get(span.id))
        while outer is not None and outer not in passed:
            passed.add(outer)
            yield self._spans[outer]
            outer = self._at_or_around(self._parents.get(outer))

    def _at_or_around(self, id: str | None) -> str | None:
        passed: dict[str, None] = {}
        while id is not None and id in self._spans and id not in passed and id not in self._nearest:
            passed[id] = None
            if self._counts(self._spans[id]):
                self._nearest[id] = id
            else:
                id = self._parents.get(id)
        found = None if id is None else self._nearest.get(id)
        self._nearest |= dict.fromkeys(passed, found)
        return found


def is_operation(span: Span) -> bool:
    """Whether it is one of the known operations, which enclose what happens in them."""
    return str(span.attributes.get(semconv.OPERATION)) in OPERATIONS


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
