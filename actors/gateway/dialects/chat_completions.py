"""OpenAI's chat completions: request bodies in, completions and chunks out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from al_ray.actors.gateway.dialects.core import (
    Asked,
    AskedSampling,
    Body,
    Choices,
    Dialect,
    Head,
    Many,
    Stop,
    Temperature,
    Tokens,
    TopLogprobs,
    TopP,
    left_out,
    openai_error,
    openai_usage,
    parse_body,
    parse_part,
    refused,
    said,
    stops,
)
from al_ray.actors.gateway.dialects.fields.chat_completions import CHAT_COMPLETIONS_FIELDS
from al_ray.actors.gateway.dialects.fields.vllm import with_vllms
from al_ray.actors.gateway.dialects.logprobs import openai_logprobs
from al_ray.actors.gateway.dialects.object_stream import ObjectStream, StreamOptions
from al_ray.actors.gateway.dialects.tools import Offer, custom_call, custom_input, named
from al_ray.types import JSON, ChatDelta, ChatReply, Choice, TokenLogprob

_FIELDS: Final = with_vllms(CHAT_COMPLETIONS_FIELDS["request"], "/v1/chat/completions")


class _Named(Body):
    name: str


class _NamedFunction(Body):
    type: Literal["function"]
    function: _Named


class _NamedCustom(Body):
    type: Literal["custom"]
    custom: _Named


class _AllowedTools(Body):
    mode: Literal["auto", "required"]
    tools: Many[Annotated[_NamedFunction | _NamedCustom, Field(discriminator="type")]]


class _Allowed(Body):
    type: Literal["allowed_tools"]
    allowed_tools: _AllowedTools


class _CustomTool(Body):
    name: str
    description: str | None = None
    format: dict[str, Any] | None = None


class _JsonSchema(Body):
    model_config = ConfigDict(extra="allow")

    name: str
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Body):
    type: Literal["text", "json_object"]


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: _JsonSchema


class ChatBody(Body):
    """What is read of a request."""

    model_config = ConfigDict(extra="allow")

    messages: Many[dict[str, Any]] = Field(min_length=1)
    model: str = ""
    tools: Many[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none", "required"] | _NamedFunction | _NamedCustom | _Allowed | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | JsonSchemaFormat | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    n: Choices | None = None
    stop: Stop = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


def parse(raw: bytes) -> Asked:
    body = parse_body(ChatBody, raw)
    sent = body.model_extra or {}
    structured = body.response_format is not None and body.response_format.type != "text"
    offer = _offer(body.tools or ())
    offer.left_out += left_out(_FIELDS, sent)
    refusals = refused(_FIELDS, sent), offer.unmet(body.tool_choice)
    return Asked(
        model=body.model,
        sampling=AskedSampling(
            temperature=body.temperature,
            top_p=body.top_p,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            stop=stops(body.stop),
            n=body.n or 1,
        ),
        said=said(body, "temperature", "top_p", "max_completion_tokens", "max_tokens", "n", "stop", "seed"),
        messages=[_without_custom_calls(message) for message in body.messages],
        tool_choice=_choice(offer, body.tool_choice),  # before the tools, which it may narrow down
        tools=offer.functions or (None if body.tools else body.tools),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        told_as=offer.told_as,
        left_out=offer.left_out,
        other_tools=_others(body),
        other_choice=body.tool_choice if isinstance(body.tool_choice, str) else None,
        response_format=_plain(body.response_format) if structured else None,
        top_logprobs=body.top_logprobs or 0 if body.logprobs else None,
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
        extra=sent,
        refused="; ".join(filter(None, refusals)) or None,
    )


def _offer(tools: Sequence[dict[str, Any]]) -> Offer:
    """Functions stay as they came: what is wrong with one, the engine says."""
    offer = Offer()
    for place, tool in enumerate(tools):
        kind = _kind(tool)
        if kind == "function":
            offer.functions.append(tool)
        elif kind == "custom":
            custom = parse_part(_CustomTool, tool.get("custom"), f"tools.{place}.custom")
            offer.custom(custom.name, custom.description, custom.format)
        else:
            offer.left_out.append(kind)
    return offer


def _kind(tool: Mapping[str, Any]) -> str:
    return str(tool.get("type") or "function")


def _choice(offer: Offer, choice: str | _NamedFunction | _NamedCustom | _Allowed | None) -> JSON:
    match choice:
        case _Allowed():
            return offer.only(map(_name, choice.allowed_tools.tools), choice.allowed_tools.mode)
        case _NamedFunction() | _NamedCustom():
            return named(offer.chosen(_name(choice)))
    return None if offer.unmet(choice) else offer.choice(choice)


def _others(body: ChatBody) -> list[dict[str, Any]]:
    """The tools that a hosted model alone may know; where some are allowed, these are not among them."""
    if isinstance(body.tool_choice, _Allowed):
        return []
    return [tool for tool in body.tools or () if _kind(tool) not in ("function", "custom")]


def _name(tool: _NamedFunction | _NamedCustom) -> str:
    return tool.function.name if isinstance(tool, _NamedFunction) else tool.custom.name


def _without_custom_calls(message: dict[str, JSON]) -> dict[str, JSON]:
    """A call of a tool that takes free text as that of the function which it is to the model."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not any(_is_custom(call) for call in calls):
        return message
    return message | {"tool_calls": [_as_function(call) if _is_custom(call) else call for call in calls]}


def _is_custom(call: Any) -> bool:
    return isinstance(call, dict) and isinstance(call.get("custom"), dict)


def _as_function(call: Mapping[str, Any]) -> JSON:
    custom = call["custom"]
    return custom_call(str(call.get("id")), str(custom.get("name")), str(custom.get("input")))


def _plain(value: Body | None) -> JSON:
    return None if value is None else value.model_dump(mode="json", by_alias=True)


def reply(head: Head, asked: Asked, answer: ChatReply) -> dict[str, JSON]:
    """The whole answer as OpenAI's ``chat.completion`` object."""
    choices = [
        {
            "index": choice.index,
            "message": _message(asked, choice.message),
            "finish_reason": choice.finish_reason,
            "logprobs": _logprobs(choice.token_logprobs) if asked.top_logprobs is not None else None,
        }
        for choice in answer.choices
    ]
    return head.object("chat.completion") | {"choices": choices, "usage": openai_usage(answer)}


def _message(asked: Asked, message: Mapping[str, JSON]) -> dict[str, JSON]:
    told = dict(message)
    if asked.told_as and told.get("tool_calls"):
        told["tool_calls"] = [_told_call(asked, call) for call in told["tool_calls"]]
    return told


def _told_call(asked: Asked, call: Mapping[str, JSON]) -> JSON:
    """As the API knows the tool."""
    function = call["function"]
    if function["name"] not in asked.told_as:
        return call
    custom = {"name": function["name"], "input": custom_input(function["arguments"])}
    return {"id": call["id"], "type": "custom", "custom": custom}


class ChatStream(ObjectStream):
    """``chat.completion.chunk`` objects. A call of a tool that takes free text is told when it is whole."""

    kind = "chat.completion.chunk"

    def __init__(self, head: Head, asked: Asked) -> None:
        super().__init__(head, asked)
        self._custom = asked.told_as
        self._held: dict[tuple[int, int], dict[str, str]] = {}
        """Such calls, by choice and index."""

    def piece(self, delta: ChatDelta) -> Iterable[bytes]:
        told = self._without_custom(delta) if self._custom else delta.delta
        if told or delta.token_logprobs:
            choice = _choice_of(delta.index, told, None)
            if delta.token_logprobs:
                choice["logprobs"] = _logprobs(delta.token_logprobs)
            yield self._chunk(choice)

    def _without_custom(self, delta: ChatDelta) -> Mapping[str, JSON]:
        told = dict(delta.delta)
        others = []
        for call in told.pop("tool_calls", None) or ():
            function = call.get("function") or {}
            place = delta.index, call["index"]
            if function.get("name") in self._custom:
                self._held[place] = {"id": str(call.get("id")), "name": function["name"], "arguments": ""}
            if place in self._held:
                self._held[place]["arguments"] += function.get("arguments") or ""
            else:
                others.append(call)
        return told | {"tool_calls": others} if others else told

    def end(self, answer: ChatReply) -> Iterable[bytes]:
        for (choice, index), held in self._held.items():
            custom = {"name": held["name"], "input": custom_input(held["arguments"])}
            call = {"index": index, "id": held["id"], "type": "custom", "custom": custom}
            yield self._chunk(_choice_of(choice, {"tool_calls": [call]}, None))
        yield from super().end(answer)

    def _last(self, choice: Choice) -> JSON:
        return _choice_of(choice.index, {}, choice.finish_reason)


def _choice_of(index: int, delta: Mapping[str, JSON], finish_reason: str | None) -> dict[str, JSON]:
    return {"index": index, "delta": dict(delta), "finish_reason": finish_reason}


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, JSON]:
    return {"content": openai_logprobs(tokens), "refusal": None}


CHAT_COMPLETIONS = Dialect(
    "/v1/chat/completions", "chatcmpl-", parse, reply, ChatStream, openai_error, ChatBody
)
