"""OpenAI's ``response`` object, whole or event by event."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from al_ray.actors.gateway.dialects.core import (
    Asked,
    Failure,
    Head,
    ToldAs,
    event,
    openai_error,
    reasoning_of,
)
from al_ray.actors.gateway.dialects.logprobs import TextTokens, openai_logprobs
from al_ray.actors.gateway.dialects.tools import as_object, custom_input
from al_ray.types import JSON, ChatDelta, ChatReply, Choice, TokenLogprob

Item = dict[str, JSON]

_FUNCTION: Final = "function"
_CALLS: Final[Mapping[str, tuple[str, str]]] = {
    _FUNCTION: ("function_call", "arguments"),
    "custom": ("custom_tool_call", "input"),
    "local_shell": ("local_shell_call", "action"),
    "shell": ("shell_call", "action"),
    "apply_patch": ("apply_patch_call", "operation"),
}
"""The type of the item that calls a tool of each type, and where it has what the tool is given."""
_NOTHING: Final[Mapping[str, JSON]] = {
    "local_shell": {"type": "exec", "command": [], "env": {}},
    "shell": {"commands": []},
    "apply_patch": {},
}
"""What a tool of the API's own is given at least."""
_CUT: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is incomplete, by the reason why it ended."""


def response(head: Head, asked: Asked, output: Sequence[Item], answer: ChatReply | None) -> dict[str, JSON]:
    """The object with its ``output``; without an ``answer`` yet, it is in progress."""
    cut = None if answer is None else _CUT.get(answer.choices[0].finish_reason)
    status = "in_progress" if answer is None else "incomplete" if cut else "completed"
    told = {name: value for name, value in asked.echo.items() if value is not None}
    return {
        "id": head.id,
        "object": "response",
        "created_at": head.created,
        "model": head.model,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": cut} if cut else None,
        "output": list(output),
        "instructions": None,
        "previous_response_id": None,
        "parallel_tool_calls": asked.parallel_tool_calls,
        "temperature": asked.sampling.temperature,
        "top_p": asked.sampling.top_p,
        "max_output_tokens": asked.sampling.max_tokens,
        "usage": None if answer is None else _usage(answer),
        "metadata": {},
        "tools": [],
        "tool_choice": "auto",
        "text": {"format": {"type": "text"}},
        **told,
    }


def output_items(head: Head, asked: Asked, choice: Choice) -> list[Item]:
    """The items of a whole answer: what was thought, said and called, or a message in which nothing is, for
    the agent to send back. The last of one that was cut is incomplete."""
    message = choice.message
    items: list[Item] = []
    if reasoning := reasoning_of(message):
        items.append(_reasoning(_item_id(head, len(items)), reasoning))
    if message.get("content"):
        logprobs = openai_logprobs(TextTokens().of(message, choice.token_logprobs))
        items.append(_message(_item_id(head, len(items)), str(message["content"]), logprobs))
    if message.get("refusal"):
        items.append(_refusal(_item_id(head, len(items)), str(message["refusal"])))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        item = _call(_item_id(head, len(items)), call["id"], asked.told_as.get(function["name"]), function)
        items.append(item)
    items = items or [_message(_item_id(head, 0), "")]
    if choice.finish_reason in _CUT:
        items[-1]["status"] = "incomplete"
    return items


def _item_id(head: Head, index: int) -> str:
    return f"item_{index}_{head.id}"


def _reasoning(item_id: str, text: str) -> Item:
    content = [{"type": "reasoning_text", "text": text}]
    return {"id": item_id, "type": "reasoning", "status": "completed", "summary": [], "content": content}


def _message(item_id: str, text: str, logprobs: Sequence[JSON] = ()) -> Item:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
    return _of_assistant(item_id, part)


def _refusal(item_id: str, text: str) -> Item:
    return _of_assistant(item_id, {"type": "refusal", "refusal": text})


def _of_assistant(item_id: str, part: JSON) -> Item:
    told = {"id": item_id, "type": "message", "role": "assistant", "status": "completed"}
    return told | {"content": [part]}


def _call(item_id: str, call_id: str, known: ToldAs | None, function: Mapping[str, Any]) -> Item:
    """A call of a tool as the API knows it."""
    told = known or ToldAs(_FUNCTION, function["name"])
    kind, given = _CALLS[told.type]
    item: Item = {"id": item_id, "type": kind, "status": "completed", "call_id": call_id}
    if told.type in _NOTHING:
        return item | {given: {**_NOTHING[told.type], **(as_object(function["arguments"]) or {})}}
    arguments = function["arguments"]
    item |= {"name": told.name, given: custom_input(arguments) if told.type == "custom" else arguments}
    return item if told.namespace is None else item | {"namespace": told.namespace}


def _usage(answer: ChatReply) -> dict[str, JSON]:
    used = answer.usage
    return {
        "input_tokens": used.input_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.output_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.input_tokens + used.output_tokens,
    }


@dataclass(frozen=True, slots=True)
class _Text:
    """How text of a kind is told."""

    events: str
    field: str
    """Of the item's only part."""
    item: Callable[[str, str], Item]
    """From the item's id and its text."""


_TEXTS: Final[Mapping[str, _Text]] = {
    "reasoning": _Text("reasoning_text", "text", _reasoning),
    "content": _Text("output_text", "text", _message),
    "refusal": _Text("refusal", "refusal", _refusal),
}
"""By the field of OpenAI's chat message."""


@dataclass(slots=True)
class _Open:
    """An item that grows."""

    item: Item
    index: int
    known: ToldAs | None = None
    function: dict[str, str] = field(default_factory=dict)
    """Of a tool call."""

    @property
    def place(self) -> dict[str, JSON]:
        return {"item_id": self.item["id"], "output_index": self.index}


class ResponseStream:
    """The events of one response. An item is added, grows by deltas and is done before the next one, but
    calls that grow in turn, as some servers' do, are open together."""

    def __init__(self, head: Head, asked: Asked) -> None:
        self._head = head
        self._asked = asked
        self._sequence = -1
        self._items: list[Item] = []
        self._open: dict[object, _Open] = {}
        """The open items, by what they hold: ``content``, ``refusal``, ``reasoning``, or a tool call's
        index."""
        self._finished: set[object] = set()
        """The indices of the calls that are done: some servers tell of them again, to say nothing."""
        self._text_tokens = TextTokens()

    def begin(self) -> Iterable[bytes]:
        start = response(self._head, self._asked, (), None)
        yield self._event("response.created", response=start)
        yield self._event("response.in_progress", response=start)

    def piece(self, delta: ChatDelta) -> Iterable[bytes]:
        told = delta.delta
        tokens = self._text_tokens.of(told, delta.token_logprobs)
        for holds in _TEXTS:
            if text := reasoning_of(told) if holds == "reasoning" else told.get(holds):
                yield from self._grow(holds, str(text), tokens)
        for call in told.get("tool_calls") or ():
            yield from self._grow_call(call)

    def end(self, answer: ChatReply) -> Iterable[bytes]:
        cut = answer.choices[0].finish_reason in _CUT
        if not self._items:
            yield from self._grow("content", "")
        yield from self._close(cut=cut)
        whole = response(self._head, self._asked, self._items, answer)
        yield self._event(f"response.{whole['status']}", response=whole)

    def fail(self, failure: Failure) -> Iterable[bytes]:
        error = openai_error(failure)["error"]
        yield self._event("error", error=error, code=error["code"], message=failure.message, param=None)

    def _event(self, kind: str, **fields: JSON) -> bytes:
        self._sequence += 1
        return event({"type": kind, "sequence_number": self._sequence, **fields}, kind)

    def _grow(self, holds: str, text: str, tokens: Sequence[TokenLogprob] = ()) -> Iterator[bytes]:
        """Add text to the open item, or open one for it. ``tokens`` are those of what is said."""
        text_of = _TEXTS[holds]
        if holds not in self._open:
            yield from self._close()
            item = text_of.item(_item_id(self._head, len(self._items)), "")
            opened = yield from self._add(holds, item, item | {"content": []})
            part = dict(item["content"][0])
            yield self._event("response.content_part.added", **opened.place, content_index=0, part=part)
        opened = self._open[holds]
        part = opened.item["content"][0]
        part[text_of.field] += text
        told: dict[str, JSON] = {"content_index": 0, "delta": text}
        if holds == "content":
            told["logprobs"] = openai_logprobs(tokens)
            part["logprobs"] += told["logprobs"]
        yield self._event(f"response.{text_of.events}.delta", **opened.place, **told)

    def _grow_call(self, call: Mapping[str, JSON]) -> Iterator[bytes]:
        function = call.get("function") or {}
        index = call["index"]
        if index in self._finished:
            return
        if index not in self._open:
            yield from self._close(but_calls=True)
            name = str(function.get("name"))
            known = self._asked.told_as.get(name)
            begun = {"name": name, "arguments": ""}
            item = _call(_item_id(self._head, len(self._items)), str(call.get("id")), known, begun)
            opened = yield from self._add(index, item, item)
            opened.known, opened.function = known, begun
        opened = self._open[index]
        if arguments := function.get("arguments"):
            opened.function["arguments"] += arguments
            if opened.item["type"] == "function_call":
                yield self._event("response.function_call_arguments.delta", **opened.place, delta=arguments)

    def _add(self, holds: object, item: Item, empty: Item) -> Generator[bytes, None, _Open]:
        opened = self._open[holds] = _Open(item, len(self._items))
        self._items.append(item)
        yield self._event(
            "response.output_item.added",
            output_index=opened.index,
            item=empty | {"status": "in_progress"},
        )
        return opened

    def _close(self, *, but_calls: bool = False, cut: bool = False) -> Iterator[bytes]:
        """Say of the open items that they are done; of calls, where others may still grow beside them, only
        of those whose arguments are whole."""
        for holds, opened in [*self._open.items()]:
            if but_calls and opened.function and as_object(opened.function["arguments"]) is None:
                continue
            del self._open[holds]
            if opened.function:
                self._finished.add(holds)
            yield from self._done(str(holds), opened, cut=cut and opened.index == len(self._items) - 1)

    def _done(self, holds: str, opened: _Open, *, cut: bool) -> Iterator[bytes]:
        if opened.function:
            call_id = opened.item["call_id"]
            opened.item |= _call(opened.item["id"], call_id, opened.known, opened.function)
            yield from self._call_done(opened)
        else:
            part = opened.item["content"][0]
            text_of = _TEXTS[holds]
            told = {"content_index": 0, text_of.field: part[text_of.field]}
            if holds == "content":
                told["logprobs"] = part["logprobs"]
            yield self._event(f"response.{text_of.events}.done", **opened.place, **told)
            yield self._event("response.content_part.done", **opened.place, content_index=0, part=part)
        if cut:
            opened.item["status"] = "incomplete"
        yield self._event("response.output_item.done", output_index=opened.index, item=opened.item)

    def _call_done(self, opened: _Open) -> Iterator[bytes]:
        item, place = opened.item, opened.place
        if item["type"] == "function_call":
            told = {"arguments": item["arguments"], "name": item["name"]}
            yield self._event("response.function_call_arguments.done", **place, **told)
        elif item["type"] == "custom_tool_call":
            yield self._event("response.custom_tool_call_input.delta", **place, delta=item["input"])
            yield self._event("response.custom_tool_call_input.done", **place, input=item["input"])
