"""Anthropic's ``message`` object, whole or event by event, and its shape of errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import orjson

from al_ray.actors.gateway.dialects.core import Asked, Failure, Head, event, reasoning_of
from al_ray.actors.gateway.dialects.tools import as_object, input_object
from al_ray.types import JSON, ChatDelta, ChatReply, Choice

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
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
    if choice.message.get("refusal"):
        return {"stop_reason": "refusal", "stop_sequence": None}
    if choice.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop}
    return {"stop_reason": _STOP_REASONS.get(choice.finish_reason, "end_turn"), "stop_sequence": None}


def _usage(answer: ChatReply) -> dict[str, int]:
    """Anthropic counts the tokens that were found in a cache apart from the others."""
    used = answer.usage
    told = {"input_tokens": used.input_tokens - used.cached_tokens, "output_tokens": used.output_tokens}
    return told | {"cache_read_input_tokens": used.cached_tokens} if used.cached_tokens else told


def _blocks(message: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    blocks: list[dict[str, JSON]] = []
    if reasoning := reasoning_of(message):
        blocks.append({"type": "thinking", "thinking": reasoning, "signature": ""})
    for name in ("content", "refusal"):
        if message.get(name):
            blocks.append({"type": "text", "text": message[name]})
    for call in message.get("tool_calls") or ():
        function = call["function"]
        blocks.append(
            {
                "type": "tool_use",
                "id": call["id"],
                "name": function["name"],
                "input": input_object(function["arguments"]),
            }
        )
    return blocks


class MessageStream:
    """Anthropic's events: a message that starts, its content blocks one after the other, its end. Calls that
    grow in turn, as some servers' do, are open together. What a call is given is told when it is whole, as
    the whole message tells it: Anthropic's own SDK fails at pieces that make no JSON."""

    def __init__(self, head: Head, asked: Asked) -> None:
        self._head = head
        self._count = 0
        self._open: dict[object, _Block] = {}
        """The open blocks, by what they hold: ``text``, ``thinking``, or a tool call's index."""
        self._finished: set[object] = set()
        """The indices of the calls that are done: some servers tell of them again, to say nothing."""

    def begin(self) -> Iterable[bytes]:
        # How long the prompt is, is known at the end.
        empty: dict[str, JSON] = {"content": [], "stop_reason": None, "stop_sequence": None}
        usage = {"input_tokens": 0, "output_tokens": 0}
        message = _beginning(self._head) | empty | {"usage": usage}
        yield event({"type": "message_start", "message": message}, "message_start")

    def piece(self, delta: ChatDelta) -> Iterable[bytes]:
        told = delta.delta
        if reasoning := reasoning_of(told):
            yield from self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta("thinking", {"type": "thinking_delta", "thinking": reasoning})
        for name in ("content", "refusal"):
            if told.get(name):
                yield from self._block("text", {"type": "text", "text": ""})
                yield self._delta("text", {"type": "text_delta", "text": told[name]})
        for call in told.get("tool_calls") or ():
            if call["index"] in self._finished:
                continue
            function = call.get("function") or {}
            start = {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": {}}
            yield from self._block(call["index"], start)
            if arguments := function.get("arguments"):
                self._open[call["index"]].arguments += arguments

    def end(self, answer: ChatReply) -> Iterable[bytes]:
        yield from self._close()
        [choice] = answer.choices
        delta = {"type": "message_delta", "delta": _ending(choice), "usage": _usage(answer)}
        yield event(delta, "message_delta")
        yield event({"type": "message_stop"}, "message_stop")

    def fail(self, failure: Failure) -> Iterable[bytes]:
        yield event(error(failure), "error")

    def _block(self, holds: object, start: JSON) -> Iterator[bytes]:
        """Open a block for what is in no open one."""
        if holds in self._open:
            return
        yield from self._close(but_calls=start["type"] == "tool_use")
        index = self._count
        self._open[holds] = _Block(index, start["type"] == "tool_use")
        self._count += 1
        data = {"type": "content_block_start", "index": index, "content_block": start}
        yield event(data, "content_block_start")

    def _delta(self, holds: object, delta: JSON) -> bytes:
        data = {"type": "content_block_delta", "index": self._open[holds].index, "delta": delta}
        return event(data, "content_block_delta")

    def _close(self, *, but_calls: bool = False) -> Iterator[bytes]:
        """End the open blocks; of calls, where others may still grow beside them, only those whose arguments
        are whole."""
        for holds, block in [*self._open.items()]:
            if but_calls and block.is_call and as_object(block.arguments) is None:
                continue
            if block.is_call:
                given = orjson.dumps(input_object(block.arguments)).decode()
                yield self._delta(holds, {"type": "input_json_delta", "partial_json": given})
                self._finished.add(holds)
            del self._open[holds]
            yield event({"type": "content_block_stop", "index": block.index}, "content_block_stop")


@dataclass(slots=True)
class _Block:
    """A content block that grows."""

    index: int
    is_call: bool
    arguments: str = ""


def error(failure: Failure) -> dict[str, JSON]:
    """Anthropic's shape of an error."""
    other = "api_error" if failure.status >= 500 else "invalid_request_error"
    kind = _ERRORS.get(failure.status, other)
    return {"type": "error", "error": {"type": kind, "message": failure.message}}
