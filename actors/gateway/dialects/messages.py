"""Anthropic's messages: request bodies in; ``message_stream`` has what goes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, model_validator

from al_ray.actors.gateway.dialects.core import (
    Asked,
    AskedSampling,
    Body,
    Dialect,
    Temperature,
    Tokens,
    TopP,
    function_call,
    function_tool,
    parse_body,
    said,
)
from al_ray.actors.gateway.dialects.message_stream import MessageStream, error, message
from al_ray.types import JSON

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


MESSAGES = Dialect("/v1/messages", "msg_", parse, message, MessageStream, error, MessagesBody)
