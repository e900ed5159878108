"""A rollout as a person reads it: a table of many, or one in full.

What tasks, agents and models wrote is shown as it is: never as markup, with nothing left out, and
with control characters made visible, so that it cannot steer the terminal. Of errors, the agent's own frames
are shown, and each error once; `al-ray export` has them whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from textwrap import indent
from typing import Final

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from al_ray.errors import visible
from al_ray.rollouts.agent_error import folded
from al_ray.rollouts.reading.conversation import as_text, body
from al_ray.rollouts.reading.search import seconds
from al_ray.rollouts.reading.story import Told, ToldAnswer, ToldCall, ToldEvent, ToldReward, story
from al_ray.rollouts.rewards import rewards
from al_ray.traces.messages import Message
from al_ray.types import JSON, Attempt, AttemptStatus, Rollout, RolloutStatus

EXCERPT: Final = 60
"""Characters of the task that the table shows."""
_DEEPEST: Final = 12
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


def rollout_line(rollout: Rollout, dimension: str = "reward") -> str:
    """What the table has of it, where lines come one by one."""
    took, reward = seconds(rollout), rewards(rollout).get(dimension)
    told = (
        rollout.id,
        str(rollout.status),
        "-" if took is None else f"{took:.1f} s",
        "no reward" if reward is None else f"reward {reward:g}",
        _excerpt(rollout.request.task.data),
    )
    return visible("  ".join(told))


def show(
    rollout: Rollout, dimension: str = "reward", advantages: Mapping[str, float] | None = None
) -> RenderableType:
    """All that the store knows of the rollout: its task, its attempts, and what happened in the deciding
    attempt: operations around what they enclose, rewards under the calls that earned them. A call shows
    the messages that no call before it has shown. ``advantages`` are those of answers, by call and index,
    where they are known."""
    request = rollout.request
    lines = [
        _text(f"rollout {rollout.id}", "bold"),
        _text(f"batch {request.batch}, group {request.group}, {request.mode}: {rollout.status}"),
        _heading(f"task {request.task.id} ({request.task.split})"),
        *(_indented(f"{name}: {as_text(value)}") for name, value in request.task.data.items()),
    ]
    errors: dict[str, int] = {}
    for attempt in rollout.attempts:
        lines += _attempt(attempt, errors)
    for told in story(rollout):
        lines += [_inside(line, min(told.depth, _DEEPEST)) for line in told_lines(told, advantages)]
    total = rewards(rollout).get(dimension)
    lines.append(_heading("no reward" if total is None else f"final reward {total:g}"))
    return Lines(*lines)


def _attempt(attempt: Attempt, errors: dict[str, int]) -> list[Text]:
    """``errors`` are those of the attempts before, with their numbers; this one's is added."""
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started_at))
    took = "" if attempt.ended_at is None else f", {attempt.ended_at - attempt.started_at:.1f} s"
    title = f"attempt {attempt.number}: {attempt.status}, begun {begun}{took}, {attempt.worker}"
    lines = [_heading(title, _STYLES.get(attempt.status, ""))]
    if attempt.error is not None:
        error = folded(attempt.error)
        first = errors.setdefault(error, attempt.number)
        lines.append(_indented(error if first == attempt.number else f"as attempt {first}", "red"))
    if attempt.output is not None:
        lines.append(_indented(f"returned {as_text(attempt.output)}"))
    return lines


def told_lines(told: Told, advantages: Mapping[str, float] | None = None) -> list[Text]:
    """One thing that happened."""
    match told:
        case ToldCall():
            return _call(told, advantages or {})
        case ToldReward():
            named = ", ".join(f"{name} {value:g}" for name, value in told.rewards.items())
            return [_heading(f"{named} ({told.name})", "bold cyan")]
        case ToldEvent():
            return [
                _heading(f"{told.name}, {told.seconds:.2f} s"),
                *(_indented(f"{name}: {as_text(value)}") for name, value in told.attributes.items()),
            ]


def _call(call: ToldCall, advantages: Mapping[str, float]) -> list[Text]:
    prompt = "" if call.prompt_tokens is None else f" {call.prompt_tokens} prompt tokens,"
    how = "from the record" if call.replayed else f"{call.seconds:.2f} s"
    lines = [_heading(f"{call.title}:{prompt} {how}")]
    if call.earlier:
        lines.append(_indented(f"({call.earlier} messages as before)", "dim"))
    for message in call.messages:
        lines += _message(str(message.get("role")), "", message)
    for answer in call.answers:
        noted = [f"{name} {count}" for name, count in answer.signals.items()]
        reason = [answer.choice.finish_reason] if answer.choice.finish_reason else []
        worth = advantages.get(f"{call.id}/{answer.choice.index}")
        known = [] if worth is None else [f"advantage {worth:+.4f}"]
        title = ", ".join([*_sampled(answer), *reason, *noted, *known])
        lines += _message("assistant", title, answer.choice.message)
    return lines


def _sampled(answer: ToldAnswer) -> list[str]:
    ids, logprobs = answer.choice.response_ids, answer.choice.logprobs
    if not ids:
        return []
    versions = "-".join(map(str, answer.versions))
    told = [f"{len(ids)} tokens", f"policy version {versions}"]
    return [*told, f"mean logprob {fmean(logprobs):.3f}"] if logprobs else told


def _message(role: str, told: str, message: Message) -> list[Text]:
    title = _text(f"  {role}", _STYLES.get(role, "bold"))
    if told:
        title.append(f"  ({told})", "dim")
    return [title, _indented(body(message), levels=2)]


def _excerpt(data: Mapping[str, JSON]) -> str:
    text = " ".join("  ".join(as_text(value) for value in data.values()).split())
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 3]}..."


def _heading(text: str, style: str = "bold") -> Text:
    return _text(f"\n{text}", style)


def _inside(text: Text, depth: int) -> Text:
    lines = text.split("\n", allow_blank=True)
    return Text("\n").join(Text.assemble("  " * depth, line) if line else line for line in lines)


def _indented(text: str, style: str = "", levels: int = 1) -> Text:
    return Text(indent(visible(text), "  " * levels), style)


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text), style)
