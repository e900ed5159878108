"""One call of an attempt on its way through the gateway, and the span that it becomes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from al_ray.actors.gateway.calls.partial import PartialAnswer
from al_ray.actors.gateway.dialects.core import Asked, Head
from al_ray.traces import call_span, semconv
from al_ray.traces.messages import Message, as_delta
from al_ray.types import (
    JSON,
    Attempt,
    ChatDelta,
    ChatReply,
    ChatRequest,
    CompletionRequest,
    ModelRequest,
    RolloutRequest,
    Sampling,
    Span,
    SpanKind,
)


@dataclass(frozen=True, slots=True)
class Call:
    """What the agent asks, and what it is sampled with."""

    id: str
    attempt: Attempt
    group: str
    """That of its rollout."""
    agent: str
    """The agent's name, as far as it gave one."""
    model: str
    asked: Asked
    messages: Sequence[Message]
    """The whole conversation: instructions, the call that is continued, what was asked."""
    sampling: Sampling
    hosted: bool = False
    policy: str = ""
    """Which of several policies answers; empty: there is one, or a hosted model answers."""
    frozen: bool = False
    """That policy does not learn."""
    replayed: str | None = None
    """The recorded call whose answer it is given."""
    trace: Mapping[str, JSON] = field(default_factory=dict)
    """Where in the agent's own trace it was made."""
    started: float = field(default_factory=time.time)

    @property
    def head(self) -> Head:
        return Head(self.id, self.model, int(self.started))

    @property
    def request(self) -> ModelRequest:
        """The call as the engine takes it."""
        asked = self.asked
        if asked.prompt is not None:
            return CompletionRequest(self.id, asked.prompt, self.sampling, asked.top_logprobs, self.policy)
        return ChatRequest(
            self.id,
            self.messages,
            self.sampling,
            asked.tools,
            asked.tool_choice,
            f"{self.attempt.rollout_id}/{self.attempt.number}",
            asked.response_format,
            asked.top_logprobs,
            asked.parallel_tool_calls,
            self.policy,
        )

    def span(self, reply: ChatReply) -> Span:
        """The answered call."""
        if self.replayed is not None:
            return self._span(call_span.replayed_attributes(reply, self.replayed))
        return self._span(call_span.reply_attributes(reply))

    def aborted_span(self, seen: PartialAnswer) -> Span:
        """The call whose agent hung up, or whose answer broke off, with what the agent had seen. There are no
        token ids to train on."""
        told = call_span.aborted_attributes(seen.messages(self.sampling.n), seen.tokens)
        return self._span(told if self.replayed is None else told | {semconv.REPLAYED: self.replayed})

    def _span(self, answered: dict[str, JSON]) -> Span:
        return Span(
            id=self.id,
            rollout_id=self.attempt.rollout_id,
            attempt=self.attempt.number,
            kind=SpanKind.CALL,
            name=f"{self._operation} {self.model}",
            start=self.started,
            end=time.time(),
            attributes=self.asked_attributes() | answered,
        )

    @property
    def _operation(self) -> str:
        return "chat" if self.asked.prompt is None else "text_completion"

    def asked_attributes(self) -> dict[str, JSON]:
        """What its span says of the question."""
        asked, sampling = self.asked, self.sampling
        messages = list(self.messages)
        if isinstance(asked.prompt, str):
            messages = [{"role": "user", "content": asked.prompt}]
        attributes: dict[str, JSON] = {
            **self.trace,
            semconv.OPERATION: self._operation,
            semconv.REQUEST_MODEL: self.model,
            semconv.ASKED_SAMPLING: asked.said,
            semconv.INPUT_MESSAGES: messages,
        }
        if self.hosted:
            attributes[semconv.HOSTED] = True
        else:
            attributes |= {
                semconv.REQUEST_TEMPERATURE: sampling.temperature,
                semconv.REQUEST_TOP_P: sampling.top_p,
                semconv.REQUEST_MAX_TOKENS: sampling.max_tokens,
                semconv.REQUEST_SEED: sampling.seed,
            }
        if self.agent:
            attributes[semconv.AGENT_NAME] = self.agent
        if self.policy:
            attributes[semconv.POLICY] = self.policy
        if self.frozen:
            attributes[semconv.FROZEN] = True
        if (form := self._form()) is not None:
            attributes[semconv.ASKED_FORM] = form
        if asked.tools:
            attributes[semconv.TOOL_DEFINITIONS] = asked.tools
        if asked.instructions is not None:
            attributes[semconv.INSTRUCTIONS] = True
        return attributes | self._told_again()

    def _form(self) -> str | None:
        """None: any."""
        asked = self.asked
        form = [asked.tool_choice, asked.response_format, asked.parallel_tool_calls]
        if form == [None, None, True]:
            return None
        return hashlib.blake2b(orjson.dumps(form, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()

    def _told_again(self) -> dict[str, JSON]:
        """What of the request its API tells with the answer, and no other attribute tells."""
        asked = self.asked
        if not asked.echo:
            return {}
        known = {"instructions"} if asked.told_as or asked.left_out else {"instructions", "tools"}
        echo = {name: told for name, told in asked.echo.items() if told is not None and name not in known}
        kinds = {name: [told.type, told.name, told.namespace] for name, told in asked.told_as.items()}
        attributes: dict[str, JSON] = {semconv.ECHO: echo, semconv.TOLD_AS: kinds}
        return {name: value for name, value in attributes.items() if value}


def new_id() -> str:
    """Of a call: 32 hexadecimal digits, half of them the time, so that a database finds the place of new
    ones beside each other."""
    return f"{time.time_ns():016x}{os.urandom(8).hex()}"


Pieces = Sequence[ChatDelta | ChatReply]
"""Of a streamed answer: those that came together."""


def pieces_of(reply: ChatReply) -> Iterator[Pieces]:
    """A whole answer as a streamed one: each choice in two pieces, the reply last."""
    for choice in reply.choices:
        begun = ChatDelta(choice.index, {"role": "assistant", "content": ""})
        yield begun, ChatDelta(choice.index, as_delta(choice.message))
    yield [reply]


class Answerer(Protocol):
    """Whoever answers calls: the engines, a hosted model, or a record."""

    async def chat(self, call: Call, /) -> ChatReply: ...

    def stream(self, call: Call, /) -> AsyncGenerator[Pieces, None]:
        """The answer as its pieces come, the whole reply last; close it to stop the work on it."""
        ...


class Engines(Answerer, Protocol):
    """Those that sample for an attempt: many behind a router, or one in this process."""

    async def remember(self, call: Call, reply: ChatReply, /) -> None:
        """Let the rollout's engine know of a call that it did not answer, as if it had."""

    async def render(
        self, rollout: RolloutRequest, messages: Sequence[Message], tools: Sequence[Message] | None, /
    ) -> Sequence[int]:
        """The tokens of the prompt that a call with these messages has."""
