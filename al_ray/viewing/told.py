"""One rollout as a page tells it: ``al_ray.rollouts.reading.story``, with its times, tokens and lineage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from al_ray.errors import UnreadableError
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.agent_error import folded
from al_ray.rollouts.reading.conversation import as_text, content_text
from al_ray.rollouts.reading.story import Told, ToldAnswer, ToldCall, ToldEvent, ToldReward, story
from al_ray.rollouts.rewards import rewards
from al_ray.rollouts.trajectory import trajectory
from al_ray.traces import call_span, messages, semconv
from al_ray.traces.messages import Message
from al_ray.types import JSON, Lineage, Rollout, Span, SpanKind
from al_ray.viewing.lanes import Lane, lanes
from al_ray.viewing.tokens import Texts, Token

_REASONING: Final = ("reasoning", "reasoning_content")
_TOOL: Final = {
    semconv.TOOL_CALL_ARGUMENTS: "arguments",
    semconv.TOOL_CALL_RESULT: "result",
    semconv.ERROR_TYPE: "error",
}
_ERRORS: Final = {semconv.ERROR_TYPE, semconv.EXCEPTION_TYPE, semconv.EXCEPTION_MESSAGE}
_DEEPEST: Final = 8


@dataclass(frozen=True, slots=True)
class Part:
    """Something that a message or an event says, as text."""

    kind: str
    """``reasoning``, ``content``, ``call`` of a tool, ``error``, or ``field``."""
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """A message."""

    role: str
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Answer:
    """A choice of a call."""

    id: str
    """The transition's."""
    said: Said
    meaning: str
    """The same for answers that say the same."""
    facts: Sequence[str]
    tokens: Sequence[Token]


@dataclass(frozen=True, slots=True)
class Item:
    """Something that happened: a call, a reward, anything else."""

    kind: str
    """``call``, ``reward``, ``tool``, ``printed``, ``agent`` or ``event``."""
    id: str
    depth: int
    title: str
    facts: Sequence[str]
    begun: float
    """Seconds since the first thing that happened."""
    seconds: float
    share_begun: float
    """Of the time that the page tells of, percent."""
    share: float
    earlier: int = 0
    """Messages that an earlier call has told."""
    said: Sequence[Said] = ()
    answers: Sequence[Answer] = ()
    parts: Sequence[Part] = ()
    lineage: Lineage | None = None


@dataclass(frozen=True, slots=True)
class TriedAttempt:
    """An attempt; its error is folded, and empty where it is that of an earlier one."""

    number: int
    status: str
    worker: str
    begun: float
    seconds: float | None
    error: str
    same_as: int | None
    output: str


@dataclass(frozen=True, slots=True)
class ToldRollout:
    """All of a page."""

    rollout: Rollout
    task: Sequence[Part]
    rewards: Mapping[str, float]
    attempts: Sequence[TriedAttempt]
    items: Sequence[Item]
    lanes: Sequence[Lane]
    call_numbers: Sequence[int]
    """Of the transitions, in order: 1 is the first call of the attempt."""
    unreadable: str
    """Why there is no lineage, if so."""
    versions: Sequence[int]
    tokens: int

    @property
    def seconds(self) -> float:
        return max((item.begun + item.seconds for item in self.items), default=0.0)


def told(rollout: Rollout, texts: Texts, settings: TransitionsSection) -> ToldRollout:
    """The rollout with the spans of its deciding attempt."""
    happened = list(story(rollout))
    begun = min((each.start for each in happened), default=0.0)
    ends = [each.start + getattr(each, "seconds", 0.0) for each in happened]
    total = max([end - begun for end in ends], default=0.0) or 1.0
    spans = {span.id: span for span in rollout.spans}
    items = [_item(each, begun, total, spans[each.id], texts) for each in happened]
    numbers = {each.id: each.number for each in happened if isinstance(each, ToldCall)}
    forest: Sequence[Lane] = ()
    calls: Sequence[int] = ()
    unreadable = ""
    try:
        made = trajectory(rollout, settings)
        forest = lanes(made)
        calls = [numbers.get(t.of_call, 0) for t in made.transitions]
    except (UnreadableError, ValueError) as error:
        unreadable = str(error)
    sampled = [call for call in rollout.spans if call.kind is SpanKind.CALL]
    return ToldRollout(
        rollout=rollout,
        task=[Part("field", name, as_text(value)) for name, value in rollout.request.task.data.items()],
        rewards=rewards(rollout),
        attempts=list(_attempts(rollout)),
        items=items,
        lanes=forest,
        call_numbers=calls,
        unreadable=unreadable,
        versions=sorted({version for call in sampled for version in call_span.versions(call)}),
        tokens=sum(map(call_span.sampled_tokens, sampled)),
    )


def said(message: Message) -> Said:
    """All of a message, its parts told apart."""
    return Said(str(message.get("role") or "assistant"), [*_parts(message)])


def _parts(message: Message) -> Iterator[Part]:
    for key, value in message.items():
        if key == "role" or value in (None, "", []):
            continue
        if key in _REASONING:
            yield Part("reasoning", "reasoning", content_text(value))
        elif key == "content":
            yield Part("content", "", content_text(value))
        elif key == "tool_calls":
            for asked in messages.tool_calls(message):
                function = asked["function"]
                yield Part("call", str(function.get("name")), pretty(function.get("arguments")))
        else:
            yield Part("field", key, as_text(value))


def _meaning(message: Message) -> str:
    """What an answer says, without what is another with every call."""
    told: dict[str, Any] = {}
    for key, value in message.items():
        if key == "tool_calls":
            asked = [call["function"] for call in messages.tool_calls(message)]
            told[key] = [
                [
                    each.get("name"),
                    messages.canonical_arguments(each.get("arguments")) or each.get("arguments"),
                ]
                for each in asked
            ]
        elif value not in (None, "", []):
            told[key] = messages.without_ids(value)
    return as_text(sorted(told.items()))


def pretty(value: JSON) -> str:
    """Objects and arrays as a person lays them out, also those in text, where that changes nothing that they
    say; other text as it is."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        laid_out = json.dumps(parsed, indent=1, ensure_ascii=False)
        if not isinstance(value, str):
            return laid_out
        same = isinstance(parsed, dict | list) and _as_written(laid_out) == _as_written(value)
        return laid_out if same else value
    except (ValueError, RecursionError, TypeError):
        return as_text(value)


def _as_written(text: str) -> object:
    """What is in JSON, with the digits of its numbers and every key, also one that stands there twice."""
    digits = "number {}".format
    return json.loads(
        text, object_pairs_hook=list, parse_float=digits, parse_int=digits, parse_constant=digits
    )


def _item(each: Told, begun: float, total: float, span: Span, texts: Texts) -> Item:
    seconds = getattr(each, "seconds", 0.0)
    at = each.start - begun
    shares = round(100 * at / total, 2), round(100 * seconds / total, 2)
    place = each.id, min(each.depth, _DEEPEST)
    match each:
        case ToldCall():
            return _call(each, span, texts, place, (at, seconds, *shares))
        case ToldReward():
            title = ", ".join(f"{name} {value:g}" for name, value in each.rewards.items())
            return Item("reward", *place, title, [each.name], at, 0.0, *shares)
    return _event(each, place, (at, seconds, *shares))


_Times = tuple[float, float, float, float]


def _call(each: ToldCall, span: Span, texts: Texts, place: tuple[str, int], times: _Times) -> Item:
    prompt = [] if each.prompt_tokens is None else [f"{each.prompt_tokens} prompt tokens"]
    lineage = call_span.lineage(span)
    how = [] if lineage is None else [f"lineage {lineage.outcome}"]
    if lineage is not None and lineage.reused_tokens:
        how = [f"{how[0]}, {lineage.reused_tokens} tokens as they were"]
    replayed = ["from the record"] * each.replayed
    return Item(
        "call",
        *place,
        each.title,
        [*prompt, *how, *replayed],
        *times,
        earlier=each.earlier,
        said=[said(message) for message in each.messages],
        answers=[_answer(each.id, answer, texts) for answer in each.answers],
        lineage=lineage,
    )


def _answer(call: str, answer: ToldAnswer, texts: Texts) -> Answer:
    choice = answer.choice
    facts = [choice.finish_reason] if choice.finish_reason else []
    if choice.response_ids:
        versions = "-".join(map(str, answer.versions))
        facts += [f"{len(choice.response_ids)} tokens", f"policy version {versions}"]
    if choice.logprobs:
        facts.append(f"mean logprob {fmean(choice.logprobs):.3f}")
    facts += [f"{name.replace('_', ' ')} {count}" for name, count in answer.signals.items()]
    tokens = texts.tokens(choice.response_ids, choice.logprobs, choice.versions)
    return Answer(f"{call}/{choice.index}", said(choice.message), _meaning(choice.message), facts, tokens)


def _event(each: ToldEvent, place: tuple[str, int], times: _Times) -> Item:
    told = each.attributes
    kind, title = "event", each.name
    if each.name == "the agent printed":
        kind = "printed"
    elif semconv.TOOL_NAME in told:
        kind, title = "tool", str(told[semconv.TOOL_NAME])
    parts = [
        Part("error" if name in _ERRORS else "field", _TOOL.get(name, name), pretty(value))
        for name, value in told.items()
        if name != semconv.TOOL_NAME
    ]
    return Item(kind, *place, title, [], *times, parts=parts)


def _attempts(rollout: Rollout) -> Iterator[TriedAttempt]:
    errors: dict[str, int] = {}
    for attempt in rollout.attempts:
        error = "" if attempt.error is None else folded(attempt.error)
        first = errors.setdefault(error, attempt.number) if error else attempt.number
        yield TriedAttempt(
            number=attempt.number,
            status=attempt.status,
            worker=attempt.worker,
            begun=attempt.started_at,
            seconds=None if attempt.ended_at is None else attempt.ended_at - attempt.started_at,
            error=error if first == attempt.number else "",
            same_as=first if first != attempt.number else None,
            output="" if attempt.output is None else pretty(attempt.output),
        )
