"""The content blocks of Anthropic's messages, and the messages of OpenAI's chat that they make."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import Field

from al_ray.actors.gateway.dialects.core import Body, Many
from al_ray.actors.gateway.dialects.fields import Does
from al_ray.actors.gateway.dialects.fields.messages import MESSAGES_FIELDS
from al_ray.actors.gateway.dialects.tools import function_call, input_arguments
from al_ray.errors import BadRequestError
from al_ray.types import JSON

_BLOCKS: Final = MESSAGES_FIELDS["messages.content"]


class Text(Body):
    type: Literal["text"]
    text: str


class _Image(Body):
    type: Literal["image"]
    source: dict[str, Any]


class _Document(Body):
    type: Literal["document"]
    source: dict[str, Any]
    title: str | None = None
    context: str | None = None


class _SearchResult(Body):
    type: Literal["search_result"]
    content: Many[Text]
    source: str
    title: str


class _ToolReference(Body):
    type: Literal["tool_reference"]
    tool_name: str


class _BrowserState(Body):
    type: Literal["browser_state"]
    tabs: list[Any]
    state_changes: list[Any] | None = None


class _Thinking(Body):
    type: Literal["thinking"]
    thinking: str


class _ToolUse(Body):
    type: Literal["tool_use", "server_tool_use", "mcp_tool_use"]
    id: str
    name: str
    input: dict[str, Any] = Field(default_factory=dict)


_ResultBlock = Annotated[
    Text | _Image | _Document | _SearchResult | _ToolReference | _BrowserState, Field(discriminator="type")
]


class _ToolResult(Body):
    type: Literal["tool_result", "mcp_tool_result"]
    tool_use_id: str
    content: str | Many[_ResultBlock] | None = None
    is_error: bool | None = None


class _ServerResult(Body):
    """Of a tool whose work the API's own server did."""

    type: Literal[
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "advisor_tool_result",
    ]
    tool_use_id: str
    content: Any


class _Compaction(Body):
    type: Literal["compaction"]
    content: str | None = None


class _Other(Body):
    """What is passed over or refused."""

    type: Literal[
        "redacted_thinking",
        "mcp_tool_listing",
        "fallback",
        "tool_addition",
        "tool_removal",
        "container_upload",
    ]


Block = Annotated[
    Text
    | _Image
    | _Document
    | _SearchResult
    | _Thinking
    | _ToolUse
    | _ToolResult
    | _ServerResult
    | _Compaction
    | _Other,
    Field(discriminator="type"),
]


def openai_messages(
    role: str, content: str | Sequence[Any], place: str, have_such: Collection[str]
) -> Iterator[dict[str, JSON]]:
    """One message may hold the results of several tools, each of which is a message of OpenAI's. Those of
    tools that the API's own servers ran stand between what the assistant says before and after them. An
    answer without a block is one of the assistant's all the same. ``have_such`` names the tools that
    ``input_arguments`` tells apart."""
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    said = _Said(role)
    is_told = role != "assistant"
    for index, block in enumerate(content):
        match block:
            case Text() if said.parts and isinstance(content[index - 1], _ToolUse | _Thinking):
                said.go_on(block.text)
            case Text():
                said.parts += _text_parts(block.text)
            case _ToolResult() | _ServerResult():
                if role == "assistant" and said:
                    yield said.message()
                    said = _Said(role)
                yield _tool_message(block)
                is_told = True
            case _ToolUse():
                arguments = input_arguments(block.input, has_such=block.name in have_such)
                said.calls.append(function_call(block.id, block.name, arguments))
            case _Thinking():
                said.reasoning += block.thinking
            case _Compaction():
                said.parts += _text_parts(block.content or "")
            case _Other():
                _pass_over(block, f"{place}.content.{index}")
            case _:
                said.parts += _parts(block)
    if said:
        yield said.message()
    elif not is_told:
        yield {"role": role, "content": ""}


@dataclass(slots=True)
class _Said:
    """A message of OpenAI's, on its way."""

    role: str
    parts: list[dict[str, JSON]] = field(default_factory=list)
    calls: list[JSON] = field(default_factory=list)
    reasoning: str = ""

    def __bool__(self) -> bool:
        return bool(self.parts or self.calls or self.reasoning)

    def go_on(self, text: str) -> None:
        """With the text that a stream told in two blocks, because a call or a thought came between."""
        match self.parts:
            case [*_, {"type": "text"} as last]:
                last["text"] += text
            case _:
                self.parts += _text_parts(text)

    def message(self) -> dict[str, JSON]:
        told: dict[str, JSON] = {"role": self.role, "content": _content(self.parts)}
        if self.reasoning:
            told["reasoning"] = self.reasoning
        if self.calls:
            told["tool_calls"] = self.calls
        return told


def _pass_over(block: _Other, place: str) -> None:
    """Raises ``BadRequestError`` for what would be missed."""
    treatment = _BLOCKS[block.type]
    if treatment.does is Does.REFUSED:
        raise BadRequestError(f"{place}: {block.type}: {treatment.told}")


def _tool_message(block: _ToolResult | _ServerResult) -> dict[str, JSON]:
    content = block.content
    if isinstance(block, _ServerResult):
        told = content if isinstance(content, str) else orjson.dumps(content).decode()
        return {"role": "tool", "tool_call_id": block.tool_use_id, "content": told}
    if not isinstance(content, str):
        content = _content([part for inner in content or () for part in _parts(inner)]) or ""
    message = {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}
    return message | {"status": "error"} if block.is_error else message


def _content(parts: Sequence[Mapping[str, JSON]]) -> JSON:
    """Text as text, for templates that know nothing else."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(str(part["text"]) for part in parts) if parts else None
    return list(parts)


def _parts(block: Body) -> list[dict[str, JSON]]:
    match block:
        case Text():
            return _text_parts(block.text)
        case _SearchResult():
            return _text_parts("\n".join([block.title, block.source, *(part.text for part in block.content)]))
        case _ToolReference():
            return _text_parts(block.tool_name)
        case _BrowserState():
            return _text_parts(orjson.dumps(block.model_dump(exclude={"type"}, exclude_none=True)).decode())
        case _Document():
            return [*_text_parts("\n".join(filter(None, (block.title, block.context)))), *_document(block)]
        case _Image():
            return [{"type": "image_url", "image_url": {"url": _url(block.source)}}]
    raise AssertionError(block)


def _text_parts(text: str) -> list[dict[str, JSON]]:
    return [{"type": "text", "text": text}] if text else []


def _document(block: _Document) -> list[dict[str, JSON]]:
    match block.source:
        case {"type": "text", "data": str(text)}:
            return _text_parts(text)
        case {"type": "content", "content": str(text)}:
            return _text_parts(text)
        case {"type": "content", "content": list(blocks)} if all(isinstance(each, dict) for each in blocks):
            return [part for each in blocks for part in _part_of_document(each)]
    file = {"filename": block.title or "document.pdf", "file_data": _url(block.source)}
    return [{"type": "file", "file": file}]


def _part_of_document(block: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    if isinstance(block.get("text"), str):
        return _text_parts(str(block["text"]))
    return [{"type": "image_url", "image_url": {"url": _url(block.get("source") or {})}}]


def _url(source: Mapping[str, JSON]) -> str:
    return str(source.get("url") or f"data:{source.get('media_type')};base64,{source.get('data')}")
