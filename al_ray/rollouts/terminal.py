"""A rollout as a person reads it: a table of many, or one in full.

What tasks, agents and models wrote is shown as it is: never as markup, with nothing left out, and
with control characters made visible, so that it cannot steer the terminal.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from statistics import fmean
from textwrap import indent
from typing import Final

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from al_ray.rollouts.conversation import as_text, body, fresh_messages
from al_ray.rollouts.rewards import rewards
from al_ray.rollouts.search import seconds
from al_ray.rollouts.signals import signals
from al_ray.traces import messages, semconv
from al_ray.traces.messages import Message
from al_ray.traces.nesting import Nesting
from al_ray.traces.reward_span import rewards_of
from al_ray.types import JSON, Attempt, AttemptStatus, Rollout, RolloutStatus, Signals, Span, SpanKind

EXCERPT: Final = 60
"""Characters of the task that the table shows."""
_DEEPEST: Final = 12
_PLUMBING: Final = {semconv.PARENT_ID, semconv.TRACE_ID, semconv.OPERATION, semconv.AGENT_NAME}
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


def rollouts_table(rollouts: Sequence[Rollout], dimension: str = "reward") -> RenderableType:
    """One line each; ``dimension`` is the reward that is shown, if it was read."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("rollout", "batch", "status"):
        table.add_column(name, no_wrap=True, overflow="fold")
    for name in ("attempts", "seconds", "reward"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("task", overflow="ellipsis", no_wrap=True)
    for rollout in rollouts:
        took, reward = seconds(rollout), rewards(rollout).get(dimension)
        table.add_row(
            _text(rollout.id),
            _text(rollout.request.batch),
            _text(rollout.status, _STYLES.get(rollout.status, "")),
            str(len(rollout.attempts)),
            "-" if took is None else f"{took:.1f}",
            "-" if reward is None else f"{reward:g}",
            _text(_excerpt(rollout.request.task.data)),
        )
    return table


def show(rollout: Rollout, dimension: str = "reward") -> RenderableType:
    """All that the store knows of the rollout: its task, its attempts, and what happened in the deciding
    attempt: operations around what they enclose, rewards under the calls that earned them. A call shows
    the messages that no call before it has shown."""
    request = rollout.request
    lines = [
        _text(f"rollout {rollout.id}", "bold"),
        _text(f"batch {request.batch}, group {request.group}, {request.mode}: {rollout.status}"),
        _heading(f"task {request.task.id} ({request.task.split})"),
        *(_indented(f"{name}: {as_text(value)}") for name, value in request.task.data.items()),
    ]
    for attempt in rollout.attempts:
        lines += _attempt(attempt)
    lines += _happened(Nesting(rollout.spans))
    total = rewards(rollout).get(dimension)
    lines.append(_heading("no reward" if total is None else f"final reward {total:g}"))
    return Lines(*lines)


def _happened(nesting: Nesting) -> Iterator[Text]:
    """The spans in order; what encloses others comes with the first of them, and they after it."""
    around = {span.id: _around(nesting, span) for span in nesting.spans}
    first = {span.id: span.sequence for span in nesting.spans}
    for span in nesting.spans:
        for outer in around[span.id]:
            first[outer.id] = min(first[outer.id], span.sequence)
    fresh = {call.id: found for call, found in fresh_messages(nesting.calls)}
    numbers = {call.id: number for number, call in enumerate(nesting.calls, 1)}
    told = signals(nesting)

    def place(span: Span) -> list[tuple[int, str]]:
        return [(first[each.id], each.id) for each in (*around[span.id], span)]

    for span in sorted(nesting.spans, key=place):
        if span.kind is SpanKind.CALL:
            title = f"call {numbers[span.id]}"
            if agent := nesting.agent(span):
                title += f" of {agent}"
            lines = _call(title, span, fresh[span.id], told)
        else:
            lines = _event(span)
        for line in lines:
            yield _inside(line, min(len(around[span.id]), _DEEPEST))


def _around(nesting: Nesting, span: Span) -> Sequence[Span]:
    """What it is shown within, outermost first: of a reward, the call that earned it."""
    if span.kind is not SpanKind.REWARD or nesting.is_terminal(span):
        return [*nesting.enclosing(span)][::-1]
    earner = nesting.earner(span)
    return [*_around(nesting, earner.call), earner.call] if earner else []


def _attempt(attempt: Attempt) -> list[Text]:
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started_at))
    took = "" if attempt.ended_at is None else f", {attempt.ended_at - attempt.started_at:.1f} s"
    title = f"attempt {attempt.number}: {attempt.status}, begun {begun}{took}, {attempt.worker}"
    lines = [_heading(title, _STYLES.get(attempt.status, ""))]
    if attempt.error is not None:
        lines.append(_indented(attempt.error, "red"))
    if attempt.output is not None:
        lines.append(_indented(f"returned {as_text(attempt.output)}"))
    return lines


def _call(
    title: str, span: Span, fresh: Sequence[Message], told: Mapping[tuple[str, int], Signals]
) -> list[Text]:
    attributes = span.attributes
    tokens = attributes.get(semconv.INPUT_TOKENS)
    prompt = "" if tokens is None else f" {tokens} prompt tokens,"
    lines = [_heading(f"{title}:{prompt} {span.end - span.start:.2f} s")]
    if earlier := len(messages.sent(span)) - len(fresh):
        lines.append(_indented(f"({earlier} messages as before)", "dim"))
    for message in fresh:
        lines += _message(str(message.get("role")), "", message)
    answers, reasons = messages.answers(span), messages.finish_reasons(span)
    for index, (answer, choice) in enumerate(zip_longest(answers, attributes.get(semconv.CHOICES) or ())):
        found = asdict(told.get((span.id, index), Signals()))
        noted = [f"{name} {count}" for name, count in found.items() if count]
        sampled = [*_sampled(choice), *reasons[index : index + 1], *noted]
        lines += _message("assistant", ", ".join(sampled), answer or {})
    return lines


def _sampled(choice: Mapping[str, JSON] | None) -> list[str]:
    if not choice or not choice["ids"]:
        return []
    versions = sorted({version for version, _, _ in choice["versions"]})
    told = [f"{len(choice['ids'])} tokens", f"policy {'-'.join(map(str, versions))}"]
    return [*told, f"mean logprob {fmean(choice['logprobs']):.3f}"] if choice["logprobs"] else told


def _message(role: str, told: str, message: Message) -> list[Text]:
    title = _text(f"  {role}", _STYLES.get(role, "bold"))
    if told:
        title.append(f"  ({told})", "dim")
    return [title, _indented(body(message), levels=2)]


def _event(span: Span) -> list[Text]:
    if span.kind is SpanKind.REWARD:
        named = ", ".join(f"{name} {value:g}" for name, value in rewards_of(span).items())
        return [_heading(f"{named} ({span.name})", "bold cyan")]
    title = str(span.attributes.get(semconv.AGENT_NAME) or span.name)
    told = [(name, value) for name, value in span.attributes.items() if name not in _PLUMBING]
    if span.name == semconv.AGENT_OUTPUT:
        title = "the agent printed"
        told = [(name.rpartition(".")[2], value) for name, value in told]
    return [
        _heading(f"{title}, {span.end - span.start:.2f} s"),
        *(_indented(f"{name}: {as_text(value)}") for name, value in told),
    ]


def _excerpt(data: Mapping[str, JSON]) -> str:
    text = " ".join("  ".join(as_text(value) for value in data.values()).split())
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 3]}..."


def _heading(text: str, style: str = "bold") -> Text:
    return _text(f"\n{text}", style)


def _inside(text: Text, depth: int) -> Text:
    lines = text.split("\n", allow_blank=True)
    return Text("\n").join(Text.assemble("  " * depth, line) if line else line for line in lines)


def _indented(text: str, style: str = "", levels: int = 1) -> Text:
    return Text(indent(_visible(text), "  " * levels), style)


def _text(text: str, style: str = "") -> Text:
    return Text(_visible(text), style)


def _visible(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
