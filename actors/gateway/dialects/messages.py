"""Anthropic's messages: request bodies in; ``message_stream`` has what goes out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from al_ray.actors.gateway.dialects.core import (
    Asked,
    AskedSampling,
    Body,
    Dialect,
    Many,
    Temperature,
    Texts,
    Tokens,
    TopP,
    left_out,
    parse_body,
    refuse,
    said,
)
from al_ray.actors.gateway.dialects.fields.messages import MESSAGES_FIELDS
from al_ray.actors.gateway.dialects.message_blocks import Block, Text, openai_messages
from al_ray.actors.gateway.dialects.message_stream import MessageStream, error, message
from al_ray.actors.gateway.dialects.tools import (
    INTEGER,
    STRING,
    Offer,
    has_such_arguments,
    named,
    object_schema,
)
from al_ray.types import JSON

_FIELDS: Final = MESSAGES_FIELDS["request"]
_TOOL_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_BEGUN: Final = (
    "messages: the last is the assistant's, and the trained model begins each answer itself: end with the "
    "user's message, or begin the answer in /v1/completions"
)
_VERSION: Final = re.compile(r"_\d{8}$")
_RANGE: Final[JSON] = {"type": "array", "items": INTEGER, "minItems": 2, "maxItems": 2}
_EDITS: Final[dict[str, JSON]] = {
    "path": STRING,
    "file_text": STRING,
    "old_str": STRING,
    "new_str": STRING,
    "insert_line": INTEGER,
    "insert_text": STRING,
    "view_range": _RANGE,
}
_OWN: Final[Mapping[str, tuple[str, JSON]]] = {
    "bash": (
        "Runs a command in a shell that stays open.",
        object_schema("", command=STRING, restart={"type": "boolean"}),
    ),
    "text_editor": (
        "Views, creates and edits files.",
        object_schema(
            "command path",
            command={"enum": ["view", "create", "str_replace", "insert", "undo_edit"]},
            **_EDITS,
        ),
    ),
    "memory": (
        "Views, creates, edits, renames and deletes files that are kept between conversations.",
        object_schema(
            "command",
            command={"enum": ["view", "create", "str_replace", "insert", "delete", "rename"]},
            old_path=STRING,
            new_path=STRING,
            **_EDITS,
        ),
    ),
}
"""Tools of the API's own whose work the agent does, with the arguments that the API gives them, by type
without its version."""


class _Message(Body):
    role: Literal["user", "assistant", "system"]
    content: str | Many[Block]


class _Tool(Body):
    model_config = ConfigDict(extra="allow")

    type: str | None = None
    name: str = ""
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _described(self) -> _Tool:
        if self.type in (None, "custom") and not (self.name and self.input_schema is not None):
            raise ValueError("a tool of the agent's own has a name and an input_schema")
        return self


class _ToolChoice(Body):
    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _named(self) -> _ToolChoice:
        if self.type == "tool" and self.name is None:
            raise ValueError("name: the type 'tool' needs the tool's name")
        return self


class _Format(Body):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputConfig(Body):
    format: _Format | None = None


class PromptBody(Body):
    """What is read of a request whose tokens are to be counted."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    messages: Many[_Message] = Field(min_length=1)
    system: str | Many[Text] | None = None
    tools: Many[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None


class MessagesBody(PromptBody):
    """What is read of a request."""

    max_tokens: Tokens
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop_sequences: Texts | None = None
    stream: bool | None = None


def parse(raw: bytes) -> Asked:
    body = parse_body(MessagesBody, raw)
    asked = _asked(
        body,
        AskedSampling(body.temperature, body.top_p, body.max_tokens, body.stop_sequences or ()),
        said(body, "temperature", "top_p", "max_tokens", "stop_sequences"),
        stream=bool(body.stream),
    )
    match asked.messages:
        case [*others, {"role": "assistant", "content": "", **more}] if not more:
            return replace(asked, messages=others)  # a beginning that says nothing
        case [*_, {"role": "assistant"}]:
            return replace(asked, refused=_BEGUN)
    return asked


def parse_prompt(raw: bytes) -> Asked:
    """The request of which only the prompt counts."""
    return _asked(parse_body(PromptBody, raw), AskedSampling(), {})


def _asked(
    body: PromptBody, sampling: AskedSampling, said: Mapping[str, JSON], *, stream: bool = False
) -> Asked:
    sent = body.model_extra or {}
    refuse(_FIELDS, sent)
    offer = _offer(body)
    offer.left_out += left_out(_FIELDS, sent)
    choice = body.tool_choice
    have_such = {tool.name for tool in body.tools or () if has_such_arguments(tool.input_schema)}
    system = body.system
    if isinstance(system, list):
        system = "\n".join(block.text for block in system)
    return Asked(
        model=body.model,
        sampling=sampling,
        said=said,
        messages=[
            message
            for place, sent in enumerate(body.messages)
            for message in openai_messages(sent.role, sent.content, f"messages.{place}", have_such)
        ],
        instructions=system or None,
        tools=offer.functions or None,
        tool_choice=_choice(offer, choice),
        parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
        left_out=offer.left_out,
        response_format=_response_format(body),
        stream=stream,
    )


def _offer(body: PromptBody) -> Offer:
    offer = Offer()
    for tool in body.tools or ():
        own = _OWN.get(_VERSION.sub("", tool.type or ""))
        if tool.type in (None, "custom"):
            offer.function(tool.name, tool.description, tool.input_schema, tool.strict)
        elif own is not None and tool.type in MESSAGES_FIELDS["tools"]:
            offer.function(tool.name or _VERSION.sub("", tool.type), *own, tool.strict)
        else:
            offer.left_out.append(tool.type)
    return offer


def _choice(offer: Offer, choice: _ToolChoice | None) -> JSON:
    if choice is None:
        return None
    if choice.type == "tool":
        return named(offer.chosen(choice.name or ""))
    return offer.choice(_TOOL_CHOICES[choice.type])


def _response_format(body: PromptBody) -> JSON:
    format = body.output_format or (body.output_config.format if body.output_config else None)
    if format is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": format.schema_}}


MESSAGES = Dialect("/v1/messages", "msg_", parse, message, MessageStream, error, MessagesBody)
