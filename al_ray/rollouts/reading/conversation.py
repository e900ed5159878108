"""What agent and model said to each other, as plain text: every message once, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import orjson

from al_ray.traces import messages
from al_ray.traces.messages import Message
from al_ray.traces.nesting import Nesting
from al_ray.types import JSON, Rollout, Span


def transcript(rollout: Rollout) -> str:
    """Every message once, each under its role."""
    said: list[Message] = []
    for call, fresh in fresh_messages(Nesting(rollout.spans).calls):
        said += [*fresh, *messages.answers(call)]
    return "\n\n".join(f"[{message.get('role')}]\n{body(message)}" for message in said)


def fresh_messages(calls: Sequence[Span]) -> Iterator[tuple[Span, Sequence[Message]]]:
    """Each call with those of its messages that do not continue an earlier call: that say something else than
    what was told there, which agents send back in many shapes."""
    begins: _Told = {}
    for call in calls:
        sent = [messages.said(message, call) for message in messages.sent(call)]
        at, known = begins, 0
        while known < len(sent) and sent[known] in at:
            at, known = at[sent[known]], known + 1
        for answer in messages.answers(call):
            at = begins
            for said in (*sent, messages.said(answer, call)):
                at = at.setdefault(said, {})
        yield call, messages.sent(call)[known:]


_Told = dict[str, "_Told"]
"""What was said after what, in any of several conversations."""


def body(message: Message) -> str:
    """All of a message but its role."""
    parts = []
    for key, value in _significant(message).items():
        if key == "content":
            parts.append(content_text(value))
        elif key == "tool_calls":
            parts += [_tool_call(call) for call in messages.tool_calls(message)]
        elif key != "role":
            parts.append(f"{key}: {as_text(value)}")
    return "\n".join(parts)


def as_text(value: JSON) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _significant(message: Message) -> Message:
    """Without what clients add or leave out when they send an answer back."""
    return {key: value for key, value in message.items() if value not in (None, "", [])}


def content_text(content: JSON) -> str:
    """Of a message's content: each part of it in a line of its own."""
    if not isinstance(content, list):
        return as_text(content)
    return "\n".join(_part(part) for part in content)


def _part(part: JSON) -> str:
    is_text = isinstance(part, Mapping) and isinstance(part.get("text"), str) and part.get("type") == "text"
    return part["text"] if is_text else as_text(part)


def _tool_call(call: Message) -> str:
    function = call["function"]
    asked = f"-> {function.get('name')}({as_text(function.get('arguments'))})  {call.get('id', '')}"
    return asked.rstrip()
