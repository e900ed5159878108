"""What a rollout's agents and the model said, as conversations that trainers of chat models read: each a
list of messages in OpenAI's shape, with every answer in it.

Calls that go on from an earlier one are one conversation; an agent that begins anew, or rewrites what was
said, begins another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from al_ray.rollouts.rewards import rewards
from al_ray.traces import call_span, messages, semconv
from al_ray.traces.messages import Message
from al_ray.traces.nesting import Nesting
from al_ray.types import JSON, Rollout, Span

_ASSISTANT: Final = "assistant"
_REASONING: Final = "reasoning_content"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One conversation, up to its last answer."""

    agent: str
    """Who made its last call; empty where nobody told."""
    messages: Sequence[Message]
    said: Sequence[str]
    """What each of them says, as ``messages.said`` compares it."""
    tools: Sequence[JSON]
    """The definitions that its last call offered."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Two rollouts of one task, of which one was rewarded more."""

    prompt: Sequence[Message]
    """What both begin with."""
    chosen: Sequence[Message]
    """How the better one goes on, from an answer on."""
    rejected: Sequence[Message]
    better: Rollout
    worse: Rollout


def dialogues(rollout: Rollout) -> Sequence[Dialogue]:
    """In the order in which they began. Of a call with several choices, the first; of one whose agent hung
    up, nothing."""
    nesting = Nesting(rollout.spans)
    found: list[Dialogue] = []
    for call in call_span.answered(nesting.calls):
        answers = messages.answers(call)
        if not answers:
            continue
        told = [*messages.sent(call), answers[0]]
        said = [messages.said(message, call) for message in told]
        dialogue = Dialogue(nesting.agent(call), [plain(message) for message in told], said, _tools(call))
        earlier = next((i for i, each in enumerate(found) if _goes_on(each.said, said)), None)
        if earlier is None:
            found.append(dialogue)
        else:
            found[earlier] = replace(dialogue, messages=_gone_on(found[earlier].messages, dialogue.messages))
    return found


def preference(rollouts: Sequence[Rollout], dimension: str) -> Preference | None:
    """The best and the worst rollout of a group, by their first conversations; None where none is better than
    another, or the two do not begin alike or say all the same."""
    scored = [each for each in rollouts if dimension in rewards(each) and dialogues(each)]
    scored.sort(key=lambda rollout: rewards(rollout)[dimension])
    if not scored or rewards(scored[0])[dimension] == rewards(scored[-1])[dimension]:
        return None
    worse, better = scored[0], scored[-1]
    first, other = dialogues(better)[0], dialogues(worse)[0]
    good, bad = first.messages, other.messages
    pairs = zip(_told(first), _told(other), strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    shared = min(shared, len(good) - 1, len(bad) - 1)
    while shared and not good[shared]["role"] == bad[shared]["role"] == _ASSISTANT:
        shared -= 1
    if not shared or [*_told(first)] == [*_told(other)]:
        return None
    return Preference(good[:shared], good[shared:], bad[shared:], better, worse)


def plain(message: Message) -> Message:
    """What chat templates know of a message, without what it has not: text, tool calls, whose answer it is,
    and what was thought before it."""
    told: dict[str, JSON] = {
        "role": str(message.get("role")),
        "content": messages.text(message.get("content")),
    }
    if calls := [*_tool_calls(message)]:
        told["tool_calls"] = calls
    for key in ("tool_call_id", "name"):
        if message.get(key):
            told[key] = str(message[key])
    if thought := messages.thought(message):
        told[_REASONING] = str(thought)
    return told


def _tool_calls(message: Message) -> Iterator[JSON]:
    for call in messages.tool_calls(message):
        function = call["function"]
        named = {"name": str(function.get("name")), "arguments": str(function.get("arguments") or "")}
        yield {"id": str(call.get("id") or ""), "type": "function", "function": named}


def _goes_on(earlier: Sequence[str], later: Sequence[str]) -> bool:
    return len(later) > len(earlier) and later[: len(earlier)] == earlier


def _gone_on(earlier: Sequence[Message], later: Sequence[Message]) -> Sequence[Message]:
    """What was said, as it was told first: with all that the model thought, and one clock. The ids are those
    that it was sent back with, by which the later messages know it."""
    known = []
    for ours, theirs in zip(earlier, later, strict=False):
        ids = {"tool_call_id": theirs["tool_call_id"]} if "tool_call_id" in theirs else {}
        known.append({**messages.put_back(ours, theirs), **ids})
    return [*known, *later[len(earlier) :]]


def _told(dialogue: Dialogue) -> Iterator[JSON]:
    """What is the same in two rollouts: what the model thought, too."""
    for message, said in zip(dialogue.messages, dialogue.said, strict=True):
        yield said, message.get(_REASONING)


def _tools(call: Span) -> Sequence[JSON]:
    found = call.attributes.get(semconv.TOOL_DEFINITIONS)
    return found if isinstance(found, list) else []
