"""OpenAI's responses: input items in, output items out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from al_ray.actors.gateway.dialects.core import (
    Asked,
    AskedSampling,
    Body,
    Dialect,
    Head,
    Temperature,
    Tokens,
    TopP,
    function_call,
    function_tool,
    openai_error,
    parse_body,
    said,
)
from al_ray.actors.gateway.dialects.response_stream import ResponseStream, output_items, response
from al_ray.types import JSON, ChatReply


class _Text(Body):
    type: Literal["input_text", "output_text"]
    text: str


class _Image(Body):
    type: Literal["input_image"]
    image_url: str


class _Refusal(Body):
    type: Literal["refusal"]
    refusal: str


_Part = Annotated[_Text | _Image | _Refusal, Field(discriminator="type")]


class _Message(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[_Part]


class _FunctionCall(Body):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class _FunctionOutput(Body):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[_Part]


class _ReasoningText(Body):
    text: str


class _Reasoning(Body):
    type: Literal["reasoning"]
    content: list[_ReasoningText] | None = None


_Item = Annotated[_Message | _FunctionCall | _FunctionOutput | _Reasoning, Field(discriminator="type")]


class _Tool(Body):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _NamedFunction(Body):
    type: Literal["function"]
    name: str


class _PlainFormat(Body):
    type: Literal["text", "json_object"]


class _SchemaFormat(Body):
    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class _TextConfig(Body):
    format: Annotated[_PlainFormat | _SchemaFormat, Field(discriminator="type")] | None = None


class ResponsesBody(Body):
    """What is read of a request."""

    input: str | list[_Item]
    model: str = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | _NamedFunction | None = None
    text: _TextConfig | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_output_tokens: Tokens | None = None
    metadata: dict[str, str] | None = None
    stream: bool | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _easy_messages(cls, value: Any) -> Any:
        """A message may leave its type out."""
        if not isinstance(value, list):
            return value
        return [{"type": "message"} | item if isinstance(item, dict) else item for item in value]


def parse(raw: bytes) -> Asked:
    body = parse_body(ResponsesBody, raw)
    choice: JSON = body.tool_choice
    if isinstance(choice, _NamedFunction):
        choice = {"type": "function", "function": {"name": choice.name}}
    tools = [
        function_tool(tool.name, tool.description, tool.parameters, tool.strict) for tool in body.tools or ()
    ]
    echoed = {"instructions", "previous_response_id", "tools", "tool_choice", "text", "metadata"}
    return Asked(
        model=body.model,
        sampling=AskedSampling(body.temperature, body.top_p, body.max_output_tokens),
        said=said(body, "temperature", "top_p", "max_output_tokens"),
        messages=list(_openai_messages(body.input)),
        instructions=body.instructions or None,
        previous_id=body.previous_response_id,
        tools=tools or None,
        tool_choice=choice,
        response_format=_response_format(body.text),
        stream=bool(body.stream),
        echo=body.model_dump(mode="json", include=echoed, by_alias=True),
    )


def _response_format(text: _TextConfig | None) -> JSON:
    match text and text.format:
        case _PlainFormat(type="json_object"):
            return {"type": "json_object"}
        case _SchemaFormat() as format:
            schema = {"name": format.name, "schema": format.schema_, "strict": format.strict}
            return {"type": "json_schema", "json_schema": schema}
    return None


def _openai_messages(sent: str | Sequence[_Item]) -> Iterator[dict[str, JSON]]:
    """What the assistant thought, said and called in a row is one message of OpenAI's chat."""
    if isinstance(sent, str):
        yield {"role": "user", "content": sent}
        return
    assistant: dict[str, JSON] = {}
    for item in sent:
        says = isinstance(item, _Message) and item.role == "assistant"
        goes_on = isinstance(item, _FunctionCall) or (says and assistant.get("content") is None)
        if assistant and not goes_on:
            yield assistant
            assistant = {}
        match item:
            case _Reasoning():
                assistant = _assistant(assistant)
                assistant["reasoning"] = "".join(part.text for part in item.content or ())
            case _FunctionCall():
                assistant = _assistant(assistant)
                calls = assistant.setdefault("tool_calls", [])
                calls.append(function_call(item.call_id, item.name, item.arguments))
            case _FunctionOutput():
                yield {"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)}
            case _Message(role="assistant"):
                assistant = _assistant(assistant) | {"content": _content(item.content)}
            case _Message():
                role = "system" if item.role == "developer" else item.role
                yield {"role": role, "content": _content(item.content)}
    if assistant:
        yield assistant


def _assistant(message: dict[str, JSON]) -> dict[str, JSON]:
    return message or {"role": "assistant", "content": None}


def _content(sent: str | Sequence[_Part]) -> JSON:
    """Text as text, for templates that know nothing else."""
    if isinstance(sent, str):
        return sent
    parts: list[Mapping[str, JSON]] = []
    for part in sent:
        match part:
            case _Image():
                parts.append({"type": "image_url", "image_url": {"url": part.image_url}})
            case _Text():
                parts.append({"type": "text", "text": part.text})
            case _Refusal():
                parts.append({"type": "text", "text": part.refusal})
    if all(part["type"] == "text" for part in parts):
        return "".join(str(part["text"]) for part in parts)
    return parts


def reply(head: Head, asked: Asked, answer: ChatReply) -> dict[str, JSON]:
    """The whole answer as OpenAI's ``response`` object."""
    [choice] = answer.choices
    return response(head, asked, output_items(head, choice.message), answer)


RESPONSES = Dialect("/v1/responses", "resp_", parse, reply, ResponseStream, openai_error, ResponsesBody)
