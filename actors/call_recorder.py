"""Calls on their way into the store: the span of a call, and the recorder that makes it durable."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from al_ray import semconv
from al_ray.actors.chat_api import ChatBody
from al_ray.actors.coalescer import Coalescer
from al_ray.types import JSON, Attempt, ChatReply, ChatRequest, Sampling, Span, SpanKind


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an attempt: what the agent sent, and what it is sampled with."""

    id: str
    attempt: Attempt
    model: str
    body: ChatBody
    sampling: Sampling
    started: float
    trace: Mapping[str, JSON] = field(default_factory=dict)
    """Where in the agent's own trace it was made."""

    @property
    def request(self) -> ChatRequest:
        """The call as the engine takes it."""
        body, attempt = self.body, f"{self.attempt.rollout_id}/{self.attempt.number}"
        return ChatRequest(self.id, body.messages, self.sampling, body.tools, body.tool_choice, attempt)


class CallRecorder:
    """Appends calls to the store, many in one message while the last message is under way."""

    def __init__(self, store: Any) -> None:
        self._append: Coalescer[Sequence[Span], None] = Coalescer(store.append.remote)

    async def record(self, call: Call, reply: ChatReply) -> None:
        """Returns when the call is durable. Raises ``AttemptEndedError`` if its attempt has ended."""
        await self._append([_span(call, reply)])


def _span(call: Call, reply: ChatReply) -> Span:
    sampling, body = call.sampling, call.body
    attributes: dict[str, JSON] = {
        **call.trace,
        semconv.OPERATION: "chat",
        semconv.REQUEST_MODEL: call.model,
        semconv.REQUEST_TEMPERATURE: sampling.temperature,
        semconv.REQUEST_TOP_P: sampling.top_p,
        semconv.REQUEST_MAX_TOKENS: sampling.max_tokens,
        semconv.REQUEST_SEED: sampling.seed,
        semconv.ASKED_SAMPLING: body.asked,
        semconv.INPUT_MESSAGES: body.messages,
        semconv.OUTPUT_MESSAGES: [choice.message for choice in reply.choices],
        semconv.FINISH_REASONS: [choice.finish_reason for choice in reply.choices],
        semconv.INPUT_TOKENS: len(reply.prompt_ids),
        semconv.OUTPUT_TOKENS: sum(len(choice.response_ids) for choice in reply.choices),
        semconv.LINEAGE: reply.lineage.outcome,
        semconv.LINEAGE_REUSED: reply.lineage.reused_tokens,
        semconv.PROMPT_IDS: list(reply.prompt_ids),
        semconv.CHOICES: [
            {
                "ids": list(choice.response_ids),
                "logprobs": list(choice.logprobs),
                "versions": [list(asdict(span).values()) for span in choice.versions],
            }
            for choice in reply.choices
        ],
    }
    if reply.lineage.parent is not None:
        attributes[semconv.LINEAGE_PARENT] = reply.lineage.parent
    if body.tools:
        attributes[semconv.TOOL_DEFINITIONS] = body.tools
    return Span(
        id=call.id,
        rollout_id=call.attempt.rollout_id,
        attempt=call.attempt.number,
        kind=SpanKind.CALL,
        name=f"chat {call.model}",
        start=call.started,
        end=time.time(),
        attributes=attributes,
    )
