"""Anthropic's messages: content blocks in, content blocks out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, model_validator

from al_ray.actors.dialects.core import (
    Asked,
    AskedSampling,
    Body,
    Dialect,
    Failure,
    Head,
    Temperature,
    Tokens,
    TopP,
    event,
    function_call,
    function_tool,
    parse_body,
    said,
)
from al_ray.types import JSON, ChatDelta, ChatReply, Choice

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class _Text(Body):
    type: Literal["text"]
    text: str


class _Image(Body):
    type: Literal["image"]
    source: dict[str, Any]


class _Thinking(Body):
    type: Literal["thinking"]
    thinking: str


class _RedactedThinking(Body):
    type: Literal["redacted_thinking"]


class _ToolUse(Body):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any] = Field(default_factory=dict)


_ResultBlock = Annotated[_Text | _Image, Field(discriminator="type")]


class _ToolResult(Body):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[_ResultBlock] | None = None


_Block = Annotated[
    _Text | _Image | _Thinking | _RedactedThinking | _ToolUse | _ToolResult, Field(discriminator="type")
]


class _Message(Body):
    role: Literal["user", "assistant"]
    content: str | list[_Block]


class _Tool(Body):
    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]


class _ToolChoice(Body):
    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None

    @model_validator(mode="after")
    def _named(self) -> _ToolChoice:
        if self.type == "tool" and self.name is None:
            raise ValueError("name: the type 'tool' needs the tool's name")
        return self


class PromptBody(Body):
    """What is read of a request whose tokens are to be counted."""

    model: str = ""
    messages: list[_Message] = Field(min_length=1)
    system: str | list[_Text] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None


class MessagesBody(PromptBody):
    """What is read of a request."""

    max_tokens: Tokens
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop_sequences: tuple[str, ...] | None = None
    stream: bool | None = None


def parse(raw: bytes) -> Asked:
    body = parse_body(MessagesBody, raw)
    return _asked(
        body,
        AskedSampling(body.temperature, body.top_p, body.max_tokens, body.stop_sequences or ()),
        said(body, "temperature", "top_p", "max_tokens", "stop_sequences"),
        stream=bool(body.stream),
    )


def parse_prompt(raw: bytes) -> Asked:
    """The request of which only the prompt counts."""
    return _asked(parse_body(PromptBody, raw), AskedSampling(), {})


def _asked(
    body: PromptBody, sampling: AskedSampling, said: Mapping[str, JSON], *, stream: bool = False
) -> Asked:
    tools = None
    if body.tools:
        tools = [function_tool(tool.name, tool.description, tool.input_schema) for tool in body.tools]
    choice: JSON = None
    if body.tool_choice is not None:
        named = {"type": "function", "function": {"name": body.tool_choice.name}}
        choice = _TOOL_CHOICES.get(body.tool_choice.type, named)
    system = body.system
    if isinstance(system, list):
        system = "\n".join(block.text for block in system)
    return Asked(
        model=body.model,
        sampling=sampling,
        said=said,
        messages=[message for sent in body.messages for message in _openai_messages(sent)],
        instructions=system or None,
        tools=tools,
        tool_choice=choice,
        stream=stream,
    )


def _openai_messages(message: _Message) -> Iterator[dict[str, JSON]]:
    """One message may hold the results of several tools, each of which is a message of OpenAI's."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    content: list[dict[str, JSON]] = []
    calls = []
    reasoning = ""
    for block in message.content:
        match block:
            case _ToolResult():
                yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block)}
            case _ToolUse():
                calls.append(function_call(block.id, block.name, orjson.dumps(block.input).decode()))
            case _Thinking():
                reasoning += block.thinking
            case _Text() | _Image():
                content.append(_part(block))
    if not (content or calls or reasoning):
        return
    told: dict[str, JSON] = {"role": message.role, "content": _content(content)}
    if reasoning:
        told["reasoning"] = reasoning
    if calls:
        told["tool_calls"] = calls
    yield told


def _result(block: _ToolResult) -> JSON:
    if isinstance(block.content, str) or block.content is None:
        return block.content or ""
    return _content([_part(part) for part in block.content])


def _content(parts: Sequence[dict[str, JSON]]) -> JSON:
    """Text as text, for templates that know nothing else."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(str(part["text"]) for part in parts) if parts else None
    return list(parts)


def _part(block: _Text | _Image) -> dict[str, JSON]:
    if isinstance(block, _Text):
        return {"type": "text", "text": block.text}
    source = block.source
    url = source.get("url") or f"data:{source.get('media_type')};base64,{source.get('data')}"
    return {"type": "image_url", "image_url": {"url": url}}


def reply(head: Head, asked: Asked, answer: ChatReply) -> dict[str, JSON]:
    """The whole answer as Anthropic's ``message`` object."""
    [choice] = answer.choices
    return _message(head) | _ending(choice) | {"content": _blocks(choice.message), "usage": _usage(answer)}


def _message(head: Head) -> dict[str, JSON]:
    return {"id": head.id, "type": "message", "role": "assistant", "model": head.model}


def _ending(choice: Choice) -> dict[str, JSON]:
    if choice.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop}
    return {"stop_reason": _STOP_REASONS.get(choice.finish_reason, "end_turn"), "stop_sequence": None}


def _usage(answer: ChatReply) -> dict[str, int]:
    return {"input_tokens": answer.usage.input_tokens, "output_tokens": answer.usage.output_tokens}


def _blocks(message: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    blocks: list[dict[str, JSON]] = []
    if message.get("reasoning"):
        blocks.append({"type": "thinking", "thinking": message["reasoning"], "signature": ""})
    if message.get("content"):
        blocks.append({"type": "text", "text": message["content"]})
    for call in message.get("tool_calls") or ():
        function = call["function"]
        blocks.append(
            {"type": "tool_use", "id": call["id"], "name": function["name"], "input": _input(function)}
        )
    return blocks


def _input(function: Mapping[str, JSON]) -> JSON:
    """The arguments as an object; what the model wrote need not be one, and is not lost then."""
    try:
        value = orjson.loads(function["arguments"] or "{}")
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"arguments": function["arguments"]}


class MessageStream:
    """Anthropic's events: a message that starts, its content blocks one after the other, its end."""

    def __init__(self, head: Head, asked: Asked) -> None:
        self._head = head
        self._index = -1
        self._open: object = None
        """What the open block holds: ``text``, ``thinking``, or a tool call's index."""

    def begin(self) -> Iterable[bytes]:
        # How long the prompt is, is known at the end.
        empty: dict[str, JSON] = {"content": [], "stop_reason": None, "stop_sequence": None}
        usage = {"input_tokens": 0, "output_tokens": 0}
        message = _message(self._head) | empty | {"usage": usage}
        yield event({"type": "message_start", "message": message}, "message_start")

    def piece(self, delta: ChatDelta) -> Iterable[bytes]:
        told = delta.delta
        if told.get("reasoning"):
            yield from self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": told["reasoning"]})
        if told.get("content"):
            yield from self._block("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": told["content"]})
        for call in told.get("tool_calls") or ():
            function = call.get("function") or {}
            start = {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": {}}
            yield from self._block(call["index"], start)
            if function.get("arguments"):
                yield self._delta({"type": "input_json_delta", "partial_json": function["arguments"]})

    def end(self, answer: ChatReply) -> Iterable[bytes]:
        yield from self._close()
        [choice] = answer.choices
        delta = {"type": "message_delta", "delta": _ending(choice), "usage": _usage(answer)}
        yield event(delta, "message_delta")
        yield event({"type": "message_stop"}, "message_stop")

    def fail(self, failure: Failure) -> Iterable[bytes]:
        yield event(error(failure), "error")

    def _block(self, holds: object, start: JSON) -> Iterator[bytes]:
        """Open a block for what is not in the open one."""
        if holds == self._open:
            return
        yield from self._close()
        self._open = holds
        self._index += 1
        data = {"type": "content_block_start", "index": self._index, "content_block": start}
        yield event(data, "content_block_start")

    def _delta(self, delta: JSON) -> bytes:
        data = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return event(data, "content_block_delta")

    def _close(self) -> Iterator[bytes]:
        if self._open is not None:
            yield event({"type": "content_block_stop", "index": self._index}, "content_block_stop")
        self._open = None


def error(failure: Failure) -> dict[str, JSON]:
    """Anthropic's shape of an error."""
    other = "api_error" if failure.status >= 500 else "invalid_request_error"
    kind = _ERRORS.get(failure.status, other)
    return {"type": "error", "error": {"type": kind, "message": failure.message}}


MESSAGES = Dialect("/v1/messages", "msg_", parse, reply, MessageStream, error, MessagesBody)
