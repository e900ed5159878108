"""Attempts that repeat a recorded rollout up to one of its calls: what they ask is answered from its record.

A call is answered with what was recorded of the first call there that asked the very same and has not been
repeated yet: so agents that make calls side by side may make them in another order. One whose agent hangs up
before it is answered is not repeated, and may be asked again. When all that is to be repeated was, calls
are sampled anew. An agent that asks for something else before that has *diverged*: nothing that it does from
there on is of the recorded rollout, so it is refused, and an event tells what it asked otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from itertools import takewhile
from typing import Any, Final

import orjson

from al_ray.actors.gateway.attempt_limits import ATTEMPTS_REMEMBERED
from al_ray.actors.gateway.calls.call import Call, Engines, Pieces, pieces_of
from al_ray.actors.recent import Recent
from al_ray.actors.store.span_recorder import SpanRecorder
from al_ray.database.reader import Records
from al_ray.errors import BadRequestError, DivergedError
from al_ray.traces import call_span, semconv, volatile
from al_ray.traces.divergence import Divergence, divergence_of, divergence_span
from al_ray.traces.messages import SYSTEM, Message, sent, without_ids
from al_ray.types import JSON, Attempt, ChatReply, Claim, Replay, Span, SpanKind

_QUESTION: Final[Mapping[str, str]] = {
    semconv.OPERATION: "operation",
    semconv.REQUEST_MODEL: "model",
    semconv.AGENT_NAME: "agent",
    semconv.TOOL_DEFINITIONS: "tools",
    semconv.INPUT_MESSAGES: "messages",
}
"""The attributes that tell what a call asks, by what the difference is told under. How it is to be sampled is
no part of it: that changes nothing of what was sampled."""
_CHOICES: Final = "n"
_TOKENS: Final = "prompt"
_SHOWN: Final = 60
"""Characters of what differs."""

_Question = Mapping[str, JSON]


@dataclass(slots=True)
class _Progress:
    """How far an attempt has repeated its rollout."""

    left: list[Span]
    """The recorded calls that are to be repeated, in order."""
    after: Sequence[Span]
    """Those that follow them there."""
    number: Mapping[str, int]
    """Of every recorded call, 1 the first, by its id."""
    sampled: bool
    """A call was sampled anew."""
    diverged: str = ""
    """Why nothing more is answered."""

    def give_back(self, call: Span) -> None:
        """It is to be repeated after all."""
        self.left.append(call)
        self.left.sort(key=lambda each: self.number[each.id])


@dataclass(frozen=True, slots=True)
class Replays:
    """Finds what was recorded. ``recorded`` holds the rollouts that are repeated; None: there are none."""

    records: Records
    recorded: Records | None
    recorder: SpanRecorder
    engines: Engines
    _known: Recent[tuple[str, int], _Progress] = field(default_factory=lambda: Recent(ATTEMPTS_REMEMBERED))

    async def answerer(self, claim: Claim, call: Call) -> RecordedAnswer | None:
        """Who answers a call that was recorded; None for one that is to be sampled. Raises
        ``DivergedError``."""
        if claim.request.replay is None:
            return None
        progress = await self._of(claim.attempt, claim.request.replay)
        if progress.diverged:
            raise DivergedError(progress.diverged)
        asked = _asked(call)
        found = next((span for span in progress.left if _recorded(span, asked) == asked), None)
        if found is not None:
            if call.asked.top_logprobs is None:
                progress.left.remove(found)
                return RecordedAnswer(found, progress, self.engines)
            told = "logprobs: recorded calls are answered without them"
            await self._diverge(call.attempt, progress, found, told)
        may_come_early = progress.sampled or any(_recorded(each, asked) == asked for each in progress.after)
        if progress.left and not may_come_early:
            nearest = max(progress.left, key=lambda span: _shared(sent(span), call.messages))
            told = next(_differences(_recorded(nearest, asked), asked))
            await self._diverge(call.attempt, progress, nearest, told)
        progress.sampled = True
        return None

    async def _diverge(self, attempt: Attempt, progress: _Progress, recorded: Span, told: str) -> None:
        """Raises ``DivergedError``, now and from now on."""
        found = Divergence(progress.number[recorded.id], told)
        progress.diverged = _refusal(found)
        await self.recorder.record(divergence_span(attempt.rollout_id, attempt.number, found))
        raise DivergedError(progress.diverged)

    async def _of(self, attempt: Attempt, replay: Replay) -> _Progress:
        reference = attempt.rollout_id, attempt.number
        if reference not in self._known:
            found = await asyncio.to_thread(self._read, attempt, replay)
            # Another call of the attempt may have been faster.
            return self._known.setdefault(reference, found)
        return self._known[reference]

    def _read(self, attempt: Attempt, replay: Replay) -> _Progress:
        """What another gateway may have begun, its records tell."""
        if self.recorded is None:
            raise BadRequestError(f"rollout {replay.rollout_id} is to be repeated, but no record is at hand")
        calls = call_span.answered(self.recorded.attempt_spans(replay.rollout_id, replay.attempt))
        done = self.records.attempt_spans(attempt.rollout_id, attempt.number)
        repeated = {span.attributes.get(semconv.REPLAYED) for span in call_span.answered(done)}
        return _Progress(
            left=[call for call in calls[: replay.calls] if call.id not in repeated],
            after=calls[replay.calls :],
            number={call.id: number for number, call in enumerate(calls, 1)},
            sampled=any(
                span.kind is SpanKind.CALL and semconv.REPLAYED not in span.attributes for span in done
            ),
            diverged=next((_refusal(told) for span in done if (told := divergence_of(span))), ""),
        )


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """Answers one call with what was recorded of ``span``."""

    span: Span
    progress: _Progress
    engines: Engines

    async def chat(self, call: Call) -> ChatReply:
        with self._given_back_unless_told():
            return await self._reply(call)

    async def stream(self, call: Call) -> AsyncGenerator[Pieces, None]:
        with self._given_back_unless_told():
            *pieces, whole = pieces_of(await self._reply(call))
            for each in pieces:
                yield each
        yield whole

    async def _reply(self, call: Call) -> ChatReply:
        """The engine is told, so that the prompt of a call that continues this one begins with the recorded
        tokens."""
        reply = call_span.reply(self.span)
        if not call.hosted:
            await self.engines.remember(call, reply)
        return reply

    @contextmanager
    def _given_back_unless_told(self) -> Iterator[None]:
        """Whoever gives a call up, which waits while no engine is there, may ask again."""
        try:
            yield
        except BaseException:
            self.progress.give_back(self.span)
            raise


def _asked(call: Call) -> _Question:
    """What ``call`` asks, in plain JSON, without ids, which are others in every attempt, and lines of the
    system's that say nothing (``volatile``)."""
    attributes = orjson.loads(orjson.dumps(call.asked_attributes()))
    asked = _of_attributes(attributes, date.today()) | {_CHOICES: call.sampling.n}
    prompt = call.asked.prompt
    return asked if isinstance(prompt, str | None) else asked | {_TOKENS: list(prompt)}


def _recorded(span: Span, asked: _Question) -> _Question:
    """What a recorded call asked; its prompt's tokens only where ``asked`` has nothing else."""
    day = date.fromtimestamp(span.start)
    told = _of_attributes(span.attributes, day) | {_CHOICES: len(call_span.choices(span))}
    return told | {_TOKENS: list(call_span.prompt_ids(span))} if _TOKENS in asked else told


def _of_attributes(attributes: Mapping[str, JSON], day: date) -> dict[str, JSON]:
    """Of a call that was made on that day."""
    asked = {name: without_ids(attributes.get(key)) for key, name in _QUESTION.items()}
    asked["messages"] = [_plain(message, day) for message in asked["messages"]]
    return asked


def _plain(message: Message, day: date) -> Message:
    if message.get("role") not in SYSTEM:
        return message
    return {**message, "content": volatile.without(message.get("content"), day)}


def _shared(one: Sequence[Message], other: Sequence[Message]) -> int:
    """Messages that both begin with."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: without_ids(pair[0]) == without_ids(pair[1]), pairs))


def _differences(recorded: JSON, asked: JSON, place: str = "") -> Iterator[str]:
    """Where the two differ and what stands there, in their order."""
    if recorded == asked:
        return
    if isinstance(recorded, Mapping) and isinstance(asked, Mapping):
        for name in dict.fromkeys((*recorded, *asked)):
            dot = "." if place else ""
            yield from _differences(recorded.get(name), asked.get(name), f"{place}{dot}{name}")
    elif isinstance(recorded, list) and isinstance(asked, list) and recorded and asked:
        for index, (one, other) in enumerate(zip(recorded, asked, strict=False)):
            yield from _differences(one, other, f"{place}[{index}]")
        if len(recorded) != len(asked):
            yield f"{place}: {len(recorded)} recorded, {len(asked)} asked"
    else:
        begin = _begin(recorded, asked)
        yield f"{place}: {_excerpt(recorded, begin)} recorded, {_excerpt(asked, begin)} asked"


def _begin(recorded: Any, asked: Any) -> int:
    """A few characters before the first that differs."""
    if not (isinstance(recorded, str) and isinstance(asked, str)):
        return 0
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(recorded, asked, strict=False)))
    return max(same - _SHOWN // 3, 0)


def _excerpt(value: JSON, begin: int) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    shown = text[begin : begin + _SHOWN]
    return repr(("..." if begin else "") + shown + ("..." if begin + _SHOWN < len(text) else ""))


def _refusal(told: Divergence) -> str:
    return f"the rollout that is repeated asked otherwise in its call {told.call}: {told.difference}"
