"""A rollout's deciding attempt as a reader is told it: what happened, in order, one thing within another.

Plain values, for whoever draws them. Operations come around what they enclose, rewards under the calls that
earned them. A call tells the messages that no call before it has told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from al_ray.rollouts.reading.conversation import fresh_messages
from al_ray.rollouts.signals import signals
from al_ray.traces import call_span, semconv
from al_ray.traces.messages import Message, sent
from al_ray.traces.nesting import Nesting
from al_ray.traces.reward_span import rewards_of
from al_ray.types import JSON, Choice, Rollout, Signals, Span, SpanKind

_PLUMBING: Final = {semconv.PARENT_ID, semconv.TRACE_ID, semconv.OPERATION, semconv.AGENT_NAME}


@dataclass(frozen=True, slots=True)
class ToldAnswer:
    """One choice of a call."""

    choice: Choice
    signals: Mapping[str, int]
    """What can be told of it without knowing the task, as far as there is anything: counts."""

    @property
    def versions(self) -> Sequence[int]:
        """The policy versions that sampled it, ascending."""
        return sorted({span.version for span in self.choice.versions})


@dataclass(frozen=True, slots=True)
class ToldCall:
    """A call of the model."""

    id: str
    depth: int
    number: int
    """1 is the first of the attempt."""
    agent: str
    """Empty where nobody told."""
    start: float
    """Seconds since the epoch, as are the others'."""
    seconds: float
    prompt_tokens: int | None
    earlier: int
    """Messages that it was shown and an earlier call has told."""
    messages: Sequence[Message]
    """The others."""
    answers: Sequence[ToldAnswer]
    replayed: bool
    """It was answered with what was recorded in another rollout."""
    policy: str
    """Which of several answered it; empty: there is one."""

    @property
    def title(self) -> str:
        """Which call it is, whose, and by whom it was answered."""
        of_agent = f" of {self.agent}" if self.agent else ""
        return f"call {self.number}{of_agent}" + (f", answered by {self.policy}" if self.policy else "")


@dataclass(frozen=True, slots=True)
class ToldReward:
    """A reward, within the call that earned it."""

    id: str
    depth: int
    name: str
    start: float
    rewards: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ToldEvent:
    """Anything else: an operation, a tool's execution, what the agent told or printed."""

    id: str
    depth: int
    name: str
    start: float
    seconds: float
    attributes: Mapping[str, JSON]
    """All that it tells of itself, but not of its place."""


Told = ToldCall | ToldReward | ToldEvent


def story(rollout: Rollout) -> Iterator[Told]:
    """What the spans of the deciding attempt tell; ``depth`` is how much encloses each."""
    nesting = Nesting(rollout.spans)
    around = {span.id: _around(nesting, span) for span in nesting.spans}
    first = {span.id: span.sequence for span in nesting.spans}
    for span in nesting.spans:  # what encloses others comes with the first of them, and they after it
        for outer in around[span.id]:
            first[outer.id] = min(first[outer.id], span.sequence)
    calls = {call.id: call for call in _calls(nesting, around)}

    def place(span: Span) -> list[tuple[int, str]]:
        return [(first[each.id], each.id) for each in (*around[span.id], span)]

    for span in sorted(nesting.spans, key=place):
        yield calls.get(span.id) or _reward_or_event(span, len(around[span.id]))


def _around(nesting: Nesting, span: Span) -> Sequence[Span]:
    """What it is told within, outermost first: of a reward, the call that earned it."""
    if span.kind is not SpanKind.REWARD or nesting.is_terminal(span):
        return [*nesting.enclosing(span)][::-1]
    earner = nesting.earner(span)
    return [*_around(nesting, earner.call), earner.call] if earner else []


def _calls(nesting: Nesting, around: Mapping[str, Sequence[Span]]) -> Iterator[ToldCall]:
    counted = signals(nesting)
    for number, (call, fresh) in enumerate(fresh_messages(nesting.calls), 1):
        answers = []
        for choice in call_span.choices(call):
            counts = asdict(counted.get((call.id, choice.index), Signals()))
            answers.append(ToldAnswer(choice, {name: count for name, count in counts.items() if count}))
        yield ToldCall(
            id=call.id,
            depth=len(around[call.id]),
            number=number,
            agent=nesting.agent(call),
            start=call.start,
            seconds=call.end - call.start,
            prompt_tokens=call.attributes.get(semconv.INPUT_TOKENS),
            earlier=len(sent(call)) - len(fresh),
            messages=fresh,
            answers=answers,
            replayed=call_span.is_replayed(call),
            policy=call_span.policy(call),
        )


def _reward_or_event(span: Span, depth: int) -> ToldReward | ToldEvent:
    if span.kind is SpanKind.REWARD:
        return ToldReward(span.id, depth, span.name, span.start, rewards_of(span))
    attributes = {name: value for name, value in span.attributes.items() if name not in _PLUMBING}
    name = str(span.attributes.get(semconv.AGENT_NAME) or span.name)
    if span.name == semconv.AGENT_OUTPUT:
        name = "the agent printed"
        attributes = {name.rpartition(".")[2]: value for name, value in attributes.items()}
    return ToldEvent(span.id, depth, name, span.start, span.end - span.start, attributes)
