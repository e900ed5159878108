"""What a server answers in the shape of OpenAI's chat completions: read for what it says.

Servers number and name less than OpenAI's does; what cannot be read is a ``HostedModelError``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson

from al_ray.errors import HostedModelError
from al_ray.types import JSON, Choice, TokenLogprob, Usage

TOLD: Final = 500
"""Characters of an answer that says nothing otherwise."""


def strange(why: str) -> HostedModelError:
    """Of an answer that is none."""
    return HostedModelError(HTTPStatus.BAD_GATEWAY, f"the hosted model's answer is no chat completion: {why}")


def checked(body: Any) -> Any:
    """Raises ``HostedModelError`` for an error that came as an answer."""
    if isinstance(body, Mapping) and (body.get("error") or body.get("object") == "error"):
        raise HostedModelError(HTTPStatus.BAD_GATEWAY, message_of(body), code_of(body))
    return body


def choice_of(choice: Any, place: int) -> Choice:
    """One choice of a whole answer, the ``place``-th of them."""
    told = in_words(choice["message"])
    message = {k: value for k, value in told.items() if value is not None or k == "content"}
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [_whole(call, number) for number, call in enumerate(calls)]
    return Choice(
        index_of(choice, place),
        message,
        reason_of(choice.get("finish_reason") or "stop", message),
        (),
        (),
        (),
        token_logprobs=logprobs_of(choice),
    )


def reason_of(told: str, message: Mapping[str, JSON]) -> str:
    """Why an answer ended, as our engines tell it: some servers say of tool calls that they ``stop``, as
    OpenAI's does where one was demanded."""
    return "tool_calls" if told == "stop" and message.get("tool_calls") else told


def in_words(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message, or a piece of one, whose content is text. Some servers give it in parts, and among them what
    was thought; other parts, such as Mistral's references, have no words."""
    parts = told.get("content")
    if not isinstance(parts, list):
        return told
    content = "".join(_words(part, "text") for part in parts)
    thought = "".join(_words(part, "thinking") for part in parts)
    return {**told, "content": content or None, **({"reasoning": thought} if thought else {})}


def _words(part: Any, kind: str) -> str:
    """Those of a part, if it is of that type: in the field of that name, as text or as parts of it."""
    if isinstance(part, str):
        return part if kind == "text" else ""
    words = part.get(kind) if part["type"] == kind else None
    if isinstance(words, list):
        return "".join(_words(inner, "text") for inner in words)
    return words or ""


def index_of(choice: Any, place: int) -> int:
    """Some servers number nothing, and then the place does."""
    index = choice.get("index")
    return place if index is None else int(index)


def _whole(call: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """With all that agents read of a tool call."""
    function = {"name": "", "arguments": ""} | (_as_text(call).get("function") or {})
    return {"type": "function", **_identified(call, number), "function": function}


def _as_text(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Some servers give the arguments as an object, or null where there are none."""
    function = call.get("function") or {}
    arguments = function.get("arguments", "")
    if isinstance(arguments, str):
        return call
    text = "" if arguments is None else orjson.dumps(arguments).decode()
    return {**call, "function": {**function, "arguments": text}}


def _identified(call: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """With an id, by which the agent can answer it."""
    return call if call.get("id") else {**call, "id": f"call_{number}_{os.urandom(8).hex()}"}


class ToolCallNumbers:
    """Gives the tool calls of a stream the numbers and ids that some servers leave out."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, int], str] = {}
        """By choice and number."""

    def numbered(self, choice: int, delta: Mapping[str, Any]) -> Mapping[str, Any]:
        """The next piece of a choice."""
        if not delta.get("tool_calls"):
            return delta
        return {**delta, "tool_calls": [self._call(choice, _as_text(call)) for call in delta["tool_calls"]]}

    def _call(self, choice: int, call: Mapping[str, Any]) -> Mapping[str, Any]:
        number = call.get("index")
        if number is None:
            number = self._number(choice, call)
        if (choice, number) in self._ids:
            return {**call, "index": number}
        begun = _identified(call, number)
        self._ids[choice, number] = begun["id"]
        return {**begun, "index": number}

    def _number(self, choice: int, call: Mapping[str, Any]) -> int:
        """A name or another id begins a call; anything else belongs to the last one."""
        mine = {number: call_id for (of, number), call_id in self._ids.items() if of == choice}
        known = next((number for number, call_id in mine.items() if call_id == call.get("id")), None)
        if known is not None:
            return known
        begins = call.get("id") or (call.get("function") or {}).get("name") or not mine
        return len(mine) if begins else max(mine)


def logprobs_of(choice: Any) -> list[TokenLogprob]:
    """As far as the choice tells them."""
    told = (choice.get("logprobs") or {}).get("content") or ()
    return [
        TokenLogprob(
            token["token"],
            token["logprob"],
            [(other["token"], other["logprob"]) for other in token.get("top_logprobs") or ()],
            _raw([token, *(token.get("top_logprobs") or ())]),
        )
        for token in told
    ]


def _raw(tokens: Sequence[Any]) -> Mapping[str, bytes] | None:
    """The bytes of those whose text is made of others: OpenAI writes half a character as ``\\xf0\\x9f``."""
    told = {token["token"]: bytes(token["bytes"]) for token in tokens if token.get("bytes")}
    return {text: raw for text, raw in told.items() if raw != text.encode()} or None


def usage_of(body: Any) -> Usage:
    """Zeros where the server does not count."""
    told = body.get("usage") or {}
    prompt, completion = told.get("prompt_tokens_details") or {}, told.get("completion_tokens_details") or {}
    return Usage(
        told.get("prompt_tokens") or 0,
        told.get("completion_tokens") or 0,
        prompt.get("cached_tokens") or 0,
        completion.get("reasoning_tokens") or 0,
    )


def message_of(body: Any) -> str:
    """What the server says is wrong."""
    told = body.get("error") or body if isinstance(body, Mapping) else body
    if isinstance(told, Mapping) and told.get("message"):
        return str(told["message"])
    return told if isinstance(told, str) else orjson.dumps(body)[:TOLD].decode(errors="replace")


def code_of(body: Any) -> str | None:
    """The code of what is wrong, if the server gives one."""
    error = body.get("error") if isinstance(body, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else None
    return None if code is None else str(code)
