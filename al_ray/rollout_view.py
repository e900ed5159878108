"""A rollout as a person reads it: a table of many, one in full, or its conversation as plain text.

What tasks, agents and models wrote is shown as it is: never as markup, with nothing left out, and
with control characters made visible, so that it cannot steer the terminal.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from statistics import fmean
from textwrap import indent
from typing import Final

import orjson
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from al_ray import semconv
from al_ray.errors import Problem, UserError
from al_ray.records import Records
from al_ray.types import JSON, Attempt, AttemptStatus, Rollout, RolloutStatus, Span, SpanKind

Message = Mapping[str, JSON]

EXCERPT: Final = 60
"""Characters of the task that the table shows."""
_CANDIDATES: Final = 8
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLES: Final[Mapping[str, str]] = {
    RolloutStatus.SUCCEEDED: "green",
    RolloutStatus.FAILED: "red",
    RolloutStatus.RUNNING: "yellow",
    AttemptStatus.TIMED_OUT: "red",
    AttemptStatus.UNRESPONSIVE: "red",
    "system": "magenta",
    "developer": "magenta",
    "user": "cyan",
    "tool": "yellow",
    "assistant": "green",
}


def find(records: Records, prefix: str) -> Rollout:
    """The rollout whose id is ``prefix``, or the only one whose id starts with it."""
    ids = records.rollout_ids()
    found = [prefix] if prefix in ids else [name for name in ids if name.startswith(prefix)]
    if len(found) == 1:
        rollout = records.rollout(found[0])
        assert rollout is not None
        return rollout
    if found:
        cure = f"{len(found)} rollouts start so, write more of the id: {_some(found)}"
    elif ids:
        similar = get_close_matches(prefix, ids, _CANDIDATES, cutoff=0.3) or ids
        cure = f"no rollout starts so; there are: {_some(similar)}"
    else:
        cure = "the run has no rollouts yet"
    raise UserError(Problem("rollout", prefix, cure))


def reward(rollout: Rollout) -> float | None:
    """The sum of the rewards of the deciding attempt; None if it has none."""
    spans = [span for span in rollout.spans if span.kind is SpanKind.REWARD]
    return sum(float(span.attributes[semconv.REWARD]) for span in spans) if spans else None


def rollouts_table(rollouts: Sequence[Rollout]) -> RenderableType:
    """One line each; rewards are shown where the rollouts were read with them."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("rollout", "batch", "status"):
        table.add_column(name, no_wrap=True, overflow="fold")
    for name in ("attempts", "reward"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("task", overflow="ellipsis", no_wrap=True)
    for rollout in rollouts:
        total = reward(rollout)
        table.add_row(
            _text(rollout.id),
            _text(rollout.request.batch),
            _text(rollout.status, _STYLES.get(rollout.status, "")),
            str(len(rollout.attempts)),
            "-" if total is None else f"{total:g}",
            _text(_excerpt(rollout.request.task.data)),
        )
    return table


def show(rollout: Rollout) -> RenderableType:
    """All that the store knows of the rollout: its task, its attempts, and, in the order in which
    they arrived, the calls, events and rewards of the deciding attempt. A call shows the messages
    that no call before it has shown."""
    request = rollout.request
    lines = [
        _text(f"rollout {rollout.id}", "bold"),
        _text(f"batch {request.batch}, group {request.group}, {request.mode}: {rollout.status}"),
        _heading(f"task {request.task.id} ({request.task.split})"),
        *(_indented(f"{name}: {_as_text(value)}") for name, value in request.task.data.items()),
    ]
    for attempt in rollout.attempts:
        lines += _attempt(attempt)
    fresh = dict(_fresh_messages(rollout))
    numbers = itertools.count(1)
    for span in _ordered(rollout):
        if span.kind is SpanKind.CALL:
            lines += _call(next(numbers), span, fresh[span.id])
        else:
            lines += _event(span)
    total = reward(rollout)
    lines.append(_heading("no reward" if total is None else f"final reward {total:g}"))
    return Lines(*lines)


def transcript(rollout: Rollout) -> str:
    """The conversation alone, every message once, each under its role."""
    messages: list[Message] = []
    fresh = dict(_fresh_messages(rollout))
    for span in _ordered(rollout):
        if span.kind is SpanKind.CALL:
            messages += [*fresh[span.id], *span.attributes[semconv.OUTPUT_MESSAGES]]
    return "\n\n".join(f"[{message['role']}]\n{_body(message)}" for message in messages)


def _fresh_messages(rollout: Rollout) -> Iterator[tuple[str, Sequence[Message]]]:
    """For each call, its id and those of its messages that do not continue an earlier call."""
    histories: list[list[Message]] = []
    for span in _ordered(rollout):
        if span.kind is not SpanKind.CALL:
            continue
        messages = [_significant(message) for message in span.attributes[semconv.INPUT_MESSAGES]]
        known = max((_shared(messages, history) for history in histories), default=0)
        histories += [
            [*messages, _significant(answer)] for answer in span.attributes[semconv.OUTPUT_MESSAGES]
        ]
        yield span.id, span.attributes[semconv.INPUT_MESSAGES][known:]


def _ordered(rollout: Rollout) -> Sequence[Span]:
    return sorted(rollout.spans, key=lambda span: span.sequence)


def _significant(message: Message) -> Message:
    """Without what clients add or leave out when they send an answer back."""
    return {key: value for key, value in message.items() if value not in (None, "", [])}


def _shared(left: Sequence[Message], right: Sequence[Message]) -> int:
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    return sum(1 for _ in same)


def _attempt(attempt: Attempt) -> list[Text]:
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started_at))
    took = "" if attempt.ended_at is None else f", {attempt.ended_at - attempt.started_at:.1f} s"
    title = f"attempt {attempt.number}: {attempt.status}, begun {begun}{took}, {attempt.worker}"
    lines = [_heading(title, _STYLES.get(attempt.status, ""))]
    if attempt.error is not None:
        lines.append(_indented(attempt.error, "red"))
    if attempt.output is not None:
        lines.append(_indented(f"returned {_as_text(attempt.output)}"))
    return lines


def _call(number: int, span: Span, fresh: Sequence[Message]) -> list[Text]:
    attributes = span.attributes
    earlier = len(attributes[semconv.INPUT_MESSAGES]) - len(fresh)
    title = f"call {number}: {attributes[semconv.INPUT_TOKENS]} prompt tokens, {span.end - span.start:.2f} s"
    lines = [_heading(title)]
    if earlier:
        lines.append(_indented(f"({earlier} messages as before)", "dim"))
    for message in fresh:
        lines += _message(str(message["role"]), "", message)
    for answer, choice, reason in zip(
        attributes[semconv.OUTPUT_MESSAGES],
        attributes[semconv.CHOICES],
        attributes[semconv.FINISH_REASONS],
        strict=True,
    ):
        lines += _message("assistant", _sampled(choice, reason), answer)
    return lines


def _sampled(choice: Mapping[str, JSON], finish_reason: str) -> str:
    versions = sorted({version for version, _, _ in choice["versions"]})
    told = [f"{len(choice['ids'])} tokens", finish_reason, f"policy {'-'.join(map(str, versions))}"]
    if choice["logprobs"]:
        told.append(f"mean logprob {fmean(choice['logprobs']):.3f}")
    return ", ".join(told)


def _message(role: str, told: str, message: Message) -> list[Text]:
    title = _text(f"  {role}", _STYLES.get(role, "bold"))
    if told:
        title.append(f"  ({told})", "dim")
    return [title, _indented(_body(message), levels=2)]


def _body(message: Message) -> str:
    parts = []
    for key, value in _significant(message).items():
        if key == "content":
            parts.append(_content(value))
        elif key == "tool_calls":
            parts += [_tool_call(call) for call in value]
        elif key != "role":
            parts.append(f"{key}: {_as_text(value)}")
    return "\n".join(parts)


def _content(content: JSON) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] if part.get("type") == "text" else _as_text(part) for part in content)


def _tool_call(call: Mapping[str, JSON]) -> str:
    function = call["function"]
    return f"-> {function['name']}({_as_text(function['arguments'])})  {call.get('id', '')}".rstrip()


def _event(span: Span) -> list[Text]:
    if span.kind is SpanKind.REWARD:
        dimensions = span.attributes.get(semconv.REWARD_DIMENSIONS)
        lines = [_heading(f"reward {float(span.attributes[semconv.REWARD]):g} ({span.name})", "bold cyan")]
        return [*lines, _indented(_as_text(dimensions))] if dimensions else lines
    return [
        _heading(f"{span.name}, {span.end - span.start:.2f} s"),
        *(_indented(f"{name}: {_as_text(value)}") for name, value in span.attributes.items()),
    ]


def _as_text(value: JSON) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _excerpt(data: Mapping[str, JSON]) -> str:
    text = " ".join("  ".join(_as_text(value) for value in data.values()).split())
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 3]}..."


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_CANDIDATES]) + (", ..." if len(names) > _CANDIDATES else "")


def _heading(text: str, style: str = "bold") -> Text:
    return _text(f"\n{text}", style)


def _indented(text: str, style: str = "", levels: int = 1) -> Text:
    return Text(indent(_visible(text), "  " * levels), style)


def _text(text: str, style: str = "") -> Text:
    return Text(_visible(text), style)


def _visible(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
