"""One call of an attempt on its way through the gateway, and the span that it becomes."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from al_ray.actors.gateway.dialects.core import Asked, Head, Message
from al_ray.traces import semconv
from al_ray.types import (
    JSON,
    Attempt,
    ChatDelta,
    ChatReply,
    ChatRequest,
    CompletionRequest,
    Lineage,
    ModelRequest,
    Sampling,
    Span,
    SpanKind,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Call:
    """What the agent asks, and what it is sampled with."""

    id: str
    attempt: Attempt
    agent: str
    """The agent's name, as far as it gave one."""
    model: str
    asked: Asked
    messages: Sequence[Message]
    """The whole conversation: instructions, the call that is continued, what was asked."""
    sampling: Sampling
    hosted: bool = False
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
            return CompletionRequest(self.id, asked.prompt, self.sampling, asked.top_logprobs)
        return ChatRequest(
            self.id,
            self.messages,
            self.sampling,
            asked.tools,
            asked.tool_choice,
            f"{self.attempt.rollout_id}/{self.attempt.number}",
            asked.response_format,
            asked.top_logprobs,
        )

    def span(self, reply: ChatReply) -> Span:
        """The answered call."""
        choices = [
            {
                "ids": list(choice.response_ids),
                "logprobs": list(choice.logprobs),
                "versions": [[span.version, span.start, span.end] for span in choice.versions],
                **({} if choice.stop is None else {"stop": choice.stop}),
            }
            for choice in reply.choices
        ]
        told: dict[str, JSON] = {
            semconv.OUTPUT_MESSAGES: [choice.message for choice in reply.choices],
            semconv.FINISH_REASONS: [choice.finish_reason for choice in reply.choices],
            semconv.PROMPT_IDS: list(reply.prompt_ids),
            semconv.CHOICES: choices,
        }
        if not self.hosted:
            told |= _lineage(reply.lineage)
        return self._span(told, reply.usage)

    def aborted_span(self, seen: PartialAnswer) -> Span:
        """The call whose agent hung up, with what it had seen. There are no token ids to train on."""
        messages = seen.messages(self.sampling.n)
        told = {
            semconv.OUTPUT_MESSAGES: messages,
            semconv.FINISH_REASONS: [semconv.ABORTED for _ in messages],
            semconv.PROMPT_IDS: [],
            semconv.CHOICES: [{"ids": [], "logprobs": [], "versions": []} for _ in messages],
        }
        return self._span(told, Usage(0, seen.tokens))

    def _span(self, told: dict[str, JSON], used: Usage) -> Span:
        return Span(
            id=self.id,
            rollout_id=self.attempt.rollout_id,
            attempt=self.attempt.number,
            kind=SpanKind.CALL,
            name=f"{self._operation} {self.model}",
            start=self.started,
            end=time.time(),
            attributes=self.asked_attributes()
            | told
            | {semconv.INPUT_TOKENS: used.input_tokens, semconv.OUTPUT_TOKENS: used.output_tokens},
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
        if asked.tools:
            attributes[semconv.TOOL_DEFINITIONS] = asked.tools
        if asked.instructions is not None:
            attributes[semconv.INSTRUCTIONS] = True
        return attributes


def _lineage(lineage: Lineage) -> dict[str, JSON]:
    told: dict[str, JSON] = {
        semconv.LINEAGE: lineage.outcome,
        semconv.LINEAGE_REUSED: lineage.reused_tokens,
    }
    if lineage.parent is not None:
        told[semconv.LINEAGE_PARENT] = lineage.parent
    return told


def new_id() -> str:
    """Of a call: 32 hexadecimal digits, half of them the time, so that a database finds the place of new
    ones beside each other."""
    return f"{time.time_ns():016x}{os.urandom(8).hex()}"


class Answerer(Protocol):
    """Whoever answers calls: the engines, or a hosted model."""

    async def chat(self, call: Call, /) -> ChatReply: ...

    def stream(self, call: Call, /) -> AsyncGenerator[ChatDelta | ChatReply, None]:
        """The answer piece by piece, the whole reply last; close it to stop the work on it."""
        ...


class PartialAnswer:
    """What an agent has seen of a streamed answer."""

    def __init__(self) -> None:
        self.tokens = 0
        self._text: dict[int, dict[str, str]] = {}
        self._calls: dict[int, dict[int, dict[str, JSON]]] = {}

    def add(self, delta: ChatDelta) -> None:
        self.tokens += delta.tokens
        text = self._text.setdefault(delta.index, {})
        for name in ("reasoning", "content"):
            if delta.delta.get(name):
                text[name] = text.get(name, "") + str(delta.delta[name])
        for call in delta.delta.get("tool_calls") or ():
            function = call.get("function") or {}
            calls = self._calls.setdefault(delta.index, {})
            known = calls.setdefault(
                call["index"],
                {"id": call.get("id"), "type": "function", "function": {"name": "", "arguments": ""}},
            )
            for name in ("name", "arguments"):
                known["function"][name] += function.get(name) or ""

    def message(self, index: int) -> dict[str, JSON]:
        """Of one choice, in OpenAI's shape."""
        message: dict[str, JSON] = {"role": "assistant", "content": None} | self._text.get(index, {})
        if index in self._calls:
            message["tool_calls"] = list(self._calls[index].values())
        elif message["content"] is None:
            message["content"] = ""
        return message

    def messages(self, count: int) -> list[dict[str, JSON]]:
        return [self.message(index) for index in range(count)]
