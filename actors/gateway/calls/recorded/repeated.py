"""Calls that a client repeats because no answer reached it: answered with what was recorded, if it was.

A gateway may die between recording a call and answering it. The SDKs of OpenAI and Anthropic then ask
again and say so. Were the engine asked again too, the call would be trained twice, once with an answer
that nobody saw.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from al_ray.actors.gateway.attempt_limits import ATTEMPTS_REMEMBERED
from al_ray.actors.gateway.calls.call import Call
from al_ray.actors.recent import Recent
from al_ray.database.reader import Records
from al_ray.traces import call_span, semconv
from al_ray.types import ChatReply, Span, SpanKind

RETRY_HEADER: Final = "x-stainless-retry-count"
"""In which the SDKs tell how often they have asked before."""
_QUESTION: Final = (
    *(semconv.OPERATION, semconv.REQUEST_MODEL, semconv.INPUT_MESSAGES, semconv.ASKED_SAMPLING),
    *(semconv.TOOL_DEFINITIONS, semconv.AGENT_NAME, semconv.POLICY, semconv.ASKED_FORM),
)


def is_repeated(headers: Mapping[str, str]) -> bool:
    """Whether the client says that it has asked before."""
    return headers.get(RETRY_HEADER, "0") != "0"


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer that was recorded, perhaps by another gateway, and the id of its call."""

    id: str
    reply: ChatReply


@dataclass(frozen=True, slots=True)
class RepeatedCalls:
    """Finds the answers that were recorded and did not arrive."""

    records: Records
    _answered: Recent[str, None] = field(default_factory=lambda: Recent(10 * ATTEMPTS_REMEMBERED))
    """The calls whose answers this gateway has sent. Those of one that died are not known."""

    def note_answered(self, call_id: str) -> None:
        self._answered[call_id] = None

    async def recorded(self, call: Call) -> Recorded | None:
        """The answer to this very call, if it was recorded and did not arrive. There is none with
        log-probabilities for the agent, which are not kept as it is told them."""
        if call.asked.top_logprobs is not None:
            return None
        attempt = call.attempt
        spans = await asyncio.to_thread(self.records.attempt_spans, attempt.rollout_id, attempt.number)
        for span in reversed(spans):
            if span.id not in self._answered and _same(span, call):
                self.note_answered(span.id)
                return Recorded(span.id, call_span.reply(span))
        return None


def _same(span: Span, call: Call) -> bool:
    """Whether the span is of a call that was asked and answered just so."""
    if span.kind is not SpanKind.CALL or call_span.is_aborted(span):
        return False
    prompt = call.asked.prompt
    if not isinstance(prompt, str | None) and call_span.prompt_ids(span) != list(prompt):
        return False
    asked = orjson.loads(orjson.dumps(call.asked_attributes()))
    return all(span.attributes.get(name) == asked.get(name) for name in _QUESTION)
