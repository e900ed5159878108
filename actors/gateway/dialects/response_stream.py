"""OpenAI's ``response`` object, whole or event by event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from al_ray.actors.gateway.dialects.core import Asked, Failure, Head, event, openai_error
from al_ray.types import JSON, ChatDelta, ChatReply

Item = dict[str, JSON]


def response(head: Head, asked: Asked, output: Sequence[Item], answer: ChatReply | None) -> dict[str, JSON]:
    """The object with its ``output``; without an ``answer`` yet, it is in progress."""
    cut = answer is not None and answer.choices[0].finish_reason == "length"
    status = "in_progress" if answer is None else "incomplete" if cut else "completed"
    return {
        "id": head.id,
        "object": "response",
        "created_at": head.created,
        "model": head.model,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": list(output),
        "parallel_tool_calls": True,
        "temperature": asked.sampling.temperature,
        "top_p": asked.sampling.top_p,
        "max_output_tokens": asked.sampling.max_tokens,
        "usage": None if answer is None else _usage(answer),
        **asked.echo,
        "metadata": asked.echo["metadata"] or {},
        "tools": asked.echo["tools"] or [],
        "tool_choice": asked.echo["tool_choice"] or "auto",
        "text": asked.echo["text"] or {"format": {"type": "text"}},
    }


def output_items(head: Head, message: Mapping[str, JSON]) -> list[Item]:
    """The items of a whole message: what was thought, said and called."""
    items: list[Item] = []
    if message.get("reasoning"):
        items.append(_reasoning(_item_id(head, len(items)), str(message["reasoning"])))
    if message.get("content"):
        items.append(_message(_item_id(head, len(items)), str(message["content"])))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        items.append(
            _function_call(_item_id(head, len(items)), call["id"], function["name"], function["arguments"])
        )
    return items


def _item_id(head: Head, index: int) -> str:
    return f"item_{index}_{head.id}"


def _reasoning(item_id: str, text: str) -> Item:
    content = [{"type": "reasoning_text", "text": text}]
    return {"id": item_id, "type": "reasoning", "status": "completed", "summary": [], "content": content}


def _message(item_id: str, text: str) -> Item:
    content = [_text(text)]
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }


def _function_call(item_id: str, call_id: str, name: str, arguments: str) -> Item:
    return {
        "id": item_id,
        "type": "function_call",
        "status": "completed",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def _text(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(answer: ChatReply) -> dict[str, JSON]:
    used = answer.usage
    return {
        "input_tokens": used.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": used.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.input_tokens + used.output_tokens,
    }


class ResponseStream:
    """The events of one response. An item is added, grows by deltas and is done before the next one."""

    def __init__(self, head: Head, asked: Asked) -> None:
        self._head = head
        self._asked = asked
        self._sequence = -1
        self._items: list[Item] = []
        self._open: object = None
        """What the open item holds: ``text``, ``reasoning``, or a tool call's index."""

    def begin(self) -> Iterable[bytes]:
        start = response(self._head, self._asked, (), None)
        yield self._event("response.created", response=start)
        yield self._event("response.in_progress", response=start)

    def piece(self, delta: ChatDelta) -> Iterable[bytes]:
        told = delta.delta
        if told.get("reasoning"):
            yield from self._grow("reasoning", str(told["reasoning"]))
        if told.get("content"):
            yield from self._grow("text", str(told["content"]))
        for call in told.get("tool_calls") or ():
            yield from self._grow_call(call)

    def end(self, answer: ChatReply) -> Iterable[bytes]:
        yield from self._close()
        whole = response(self._head, self._asked, self._items, answer)
        yield self._event(f"response.{whole['status']}", response=whole)

    def fail(self, failure: Failure) -> Iterable[bytes]:
        error = openai_error(failure)["error"]
        yield self._event("error", error=error, code=error["code"], message=failure.message, param=None)

    def _event(self, kind: str, **fields: JSON) -> bytes:
        self._sequence += 1
        return event({"type": kind, "sequence_number": self._sequence, **fields}, kind)

    def _place(self, **fields: JSON) -> dict[str, JSON]:
        """Where in the response the open item's next event belongs."""
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1, **fields}

    def _grow(self, holds: str, text: str) -> Iterator[bytes]:
        """Add text to the open item, or open one for it."""
        if self._open != holds:
            item_id = _item_id(self._head, len(self._items))
            item = _message(item_id, "") if holds == "text" else _reasoning(item_id, "")
            yield from self._add(holds, item)
            part = item["content"][0]
            yield self._event("response.content_part.added", **self._place(content_index=0, part=dict(part)))
        self._items[-1]["content"][0]["text"] += text
        place = self._place(content_index=0, delta=text)
        if holds == "text":
            yield self._event("response.output_text.delta", **place, logprobs=[])
        else:
            yield self._event("response.reasoning_text.delta", **place)

    def _grow_call(self, call: Mapping[str, JSON]) -> Iterator[bytes]:
        function = call.get("function") or {}
        if self._open != call["index"]:
            item_id = _item_id(self._head, len(self._items))
            yield from self._add(
                call["index"], _function_call(item_id, str(call.get("id")), str(function.get("name")), "")
            )
        if arguments := function.get("arguments"):
            self._items[-1]["arguments"] += arguments
            yield self._event("response.function_call_arguments.delta", **self._place(delta=arguments))

    def _add(self, holds: object, item: Item) -> Iterator[bytes]:
        yield from self._close()
        self._open = holds
        self._items.append(item)
        empty = item | {"status": "in_progress"} | ({"content": []} if "content" in item else {})
        yield self._event("response.output_item.added", output_index=len(self._items) - 1, item=empty)

    def _close(self) -> Iterator[bytes]:
        """Say that the open item is done."""
        if self._open is None:
            return
        self._open = None
        item = self._items[-1]
        if item["type"] == "function_call":
            place = self._place(arguments=item["arguments"], name=item["name"])
            yield self._event("response.function_call_arguments.done", **place)
        else:
            part = item["content"][0]
            place = self._place(content_index=0)
            if item["type"] == "message":
                yield self._event("response.output_text.done", **place, text=part["text"], logprobs=[])
            else:
                yield self._event("response.reasoning_text.done", **place, text=part["text"])
            yield self._event("response.content_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)
