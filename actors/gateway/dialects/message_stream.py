"""Anthropic's ``message`` object, whole or event by event, and its shape of errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import orjson

from al_ray.actors.gateway.dialects.core import Asked, Failure, Head, event
from al_ray.types import JSON, ChatDelta, ChatReply, Choice

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


def message(head: Head, asked: Asked, answer: ChatReply) -> dict[str, JSON]:
    """The object, whole."""
    [choice] = answer.choices
    return _beginning(head) | _ending(choice) | {"content": _blocks(choice.message), "usage": _usage(answer)}


def _beginning(head: Head) -> dict[str, JSON]:
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
        message = _beginning(self._head) | empty | {"usage": usage}
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
