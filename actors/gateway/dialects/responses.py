"""OpenAI's responses: input items in, output items out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError, field_validator

from al_ray.actors.gateway.dialects.core import (
    Asked,
    AskedSampling,
    Body,
    Dialect,
    FewNames,
    Head,
    Many,
    Temperature,
    Tokens,
    TopLogprobs,
    TopP,
    openai_error,
    parse_body,
    problems_told,
    refuse,
    said,
)
from al_ray.actors.gateway.dialects.fields.responses import RESPONSES_FIELDS
from al_ray.actors.gateway.dialects.fields.vllm import with_vllms
from al_ray.actors.gateway.dialects.response_items import Item, conversation, with_type
from al_ray.actors.gateway.dialects.response_stream import ResponseStream, output_items, response
from al_ray.actors.gateway.dialects.tools import INTEGER, STRING, Offer, full_name, named, object_schema
from al_ray.errors import BadRequestError
from al_ray.types import JSON, ChatReply

_FIELDS: Final = with_vllms(RESPONSES_FIELDS["request"], "/v1/responses")
_ECHOED: Final = {
    *("instructions", "previous_response_id", "tools", "tool_choice", "text", "metadata"),
    *("parallel_tool_calls", "top_logprobs"),
}
_LOGPROBS: Final = "message.output_text.logprobs"
_STRINGS: Final[JSON] = {"type": "array", "items": STRING}
OWN: Final[Mapping[str, tuple[str, JSON]]] = {
    "local_shell": (
        "Runs a command.",
        object_schema("command", command=_STRINGS, timeout_ms=INTEGER, working_directory=STRING),
    ),
    "shell": (
        "Runs commands, one after the other.",
        object_schema("commands", commands=_STRINGS, timeout_ms=INTEGER, max_output_length=INTEGER),
    ),
    "apply_patch": (
        "Creates, changes or deletes a file.",
        object_schema(
            "type path",
            type={"enum": ["create_file", "update_file", "delete_file"]},
            path=STRING,
            diff=STRING,
        ),
    ),
}
"""Tools of the API's own whose work the agent does, with the arguments that the API gives them."""


class _Function(Body):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Custom(Body):
    type: Literal["custom"]
    name: str
    description: str | None = None
    format: dict[str, Any] | None = None


class _Other(Body):
    """A tool of the API's own."""

    model_config = ConfigDict(extra="allow")

    type: str
    environment: Any = None

    @property
    def is_the_agents(self) -> bool:
        """The agent does its work, and not a server of the API's."""
        where = self.environment
        return self.type in OWN and (
            where is None or (isinstance(where, dict) and where.get("type") == "local")
        )


def _tool_kind(tool: Any) -> str:
    kind = str(tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None))
    return kind if kind in ("function", "custom", "namespace") else "other"


class _Namespace(Body):
    type: Literal["namespace"]
    name: str
    description: str | None = None
    tools: Many[Annotated[_Function | _Custom, Field(discriminator="type")]]


_Tool = Annotated[
    Annotated[_Function, Tag("function")]
    | Annotated[_Custom, Tag("custom")]
    | Annotated[_Namespace, Tag("namespace")]
    | Annotated[_Other, Tag("other")],
    Discriminator(_tool_kind),
]
_TOOLS: Final = TypeAdapter(Many[_Tool])


class _AllowedTool(Body):
    model_config = ConfigDict(extra="allow")

    type: str
    name: str | None = None
    """The API's own tools have none."""
    namespace: str | None = None


class _Chosen(Body):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Many[_AllowedTool] | None = None


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

    model_config = ConfigDict(extra="allow")

    input: str | Many[Item] = Field(default_factory=list)
    model: str = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: Many[_Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | _Chosen | None = None
    parallel_tool_calls: bool | None = None
    text: _TextConfig | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_output_tokens: Tokens | None = None
    top_logprobs: TopLogprobs | None = None
    include: Many[str] | None = None
    metadata: Annotated[dict[str, str], FewNames] | None = None
    stream: bool | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _typed(cls, value: Any) -> Any:
        return [with_type(item) for item in value] if isinstance(value, list) else value


def parse(raw: bytes) -> Asked:
    body = parse_body(ResponsesBody, raw)
    refuse(_FIELDS, body.model_extra or {})
    if "input" not in body.model_fields_set and body.previous_response_id is None:
        raise BadRequestError(
            "input: there is nothing to be answered: give text, items or previous_response_id"
        )
    told = conversation(body.input)
    offer = Offer()
    for tool in (*(body.tools or ()), *_tools_of_items(told.tools)):
        _add(offer, tool)
    wants_logprobs = body.top_logprobs is not None or _LOGPROBS in (body.include or ())
    return Asked(
        model=body.model,
        sampling=AskedSampling(body.temperature, body.top_p, body.max_output_tokens),
        said=said(body, "temperature", "top_p", "max_output_tokens"),
        messages=told.messages,
        answers=told.answers,
        instructions=body.instructions or None,
        previous_id=body.previous_response_id,
        tool_choice=_choice(offer, body.tool_choice),  # before the tools, which it may narrow down
        tools=offer.functions or None,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        told_as=offer.told_as,
        left_out=offer.left_out,
        response_format=_response_format(body.text),
        top_logprobs=body.top_logprobs or 0 if wants_logprobs else None,
        stream=bool(body.stream),
        echo=body.model_dump(mode="json", include=_ECHOED, by_alias=True),
    )


def _tools_of_items(tools: list[Any]) -> list[Any]:
    """Raises ``BadRequestError``."""
    try:
        return _TOOLS.validate_python(tools) if tools else []
    except ValidationError as error:
        raise BadRequestError(f"input: tools of an item: {problems_told(error)}") from error


def _add(offer: Offer, tool: Any) -> None:
    match tool:
        case _Function():
            offer.function(tool.name, tool.description, tool.parameters, tool.strict)
        case _Custom():
            offer.custom(tool.name, tool.description, tool.format)
        case _Namespace():
            for each in tool.tools:
                if isinstance(each, _Function):
                    offer.function(each.name, each.description, each.parameters, each.strict, tool.name)
                else:
                    offer.custom(each.name, each.description, each.format, tool.name)
        case _Other() if tool.is_the_agents:
            offer.own(tool.type, tool.type, *OWN[tool.type])
        case _Other():
            offer.left_out.append(tool.type)


def _choice(offer: Offer, choice: str | _Chosen | None) -> JSON:
    if not isinstance(choice, _Chosen):
        return offer.freely(choice)
    if choice.type == "allowed_tools":
        # Those that were left out are allowed in vain.
        known = [tool for tool in choice.tools or () if tool.type not in offer.left_out]
        names = (full_name(tool.name or tool.type, tool.namespace) for tool in known)
        return offer.only(names, choice.mode or "auto")
    return named(offer.chosen(choice.name or choice.type))


def _response_format(text: _TextConfig | None) -> JSON:
    match text and text.format:
        case _PlainFormat(type="json_object"):
            return {"type": "json_object"}
        case _SchemaFormat() as format:
            schema = {"name": format.name, "schema": format.schema_, "strict": format.strict}
            return {"type": "json_schema", "json_schema": schema}
    return None


def reply(head: Head, asked: Asked, answer: ChatReply) -> dict[str, JSON]:
    """The whole answer as OpenAI's ``response`` object."""
    [choice] = answer.choices
    return response(head, asked, output_items(head, asked, choice), answer)


RESPONSES = Dialect("/v1/responses", "resp_", parse, reply, ResponseStream, openai_error, ResponsesBody)
