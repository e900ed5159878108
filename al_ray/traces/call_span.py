"""The span of a call: what a reply is recorded as, and read back from.

The one place that knows how prompt, tokens and lineage of a call are written as attributes. Only the gateway
writes them: what an agent's own telemetry tells under these names is dropped on its way in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Final

from al_ray.traces import semconv
from al_ray.types import (
    JSON,
    ChatReply,
    Choice,
    Lineage,
    LineageOutcome,
    Span,
    SpanKind,
    Usage,
    VersionSpan,
)

TOKENS: Final = (semconv.PROMPT_IDS, semconv.CHOICES)
"""The attributes that hold tokens: large, and of use to the learner alone."""


def reply_attributes(reply: ChatReply) -> dict[str, JSON]:
    """Of an answered call; one that a hosted model answered has neither tokens nor lineage."""
    told: dict[str, JSON] = {
        semconv.OUTPUT_MESSAGES: [choice.message for choice in reply.choices],
        semconv.FINISH_REASONS: [choice.finish_reason for choice in reply.choices],
        semconv.PROMPT_IDS: list(reply.prompt_ids),
        semconv.CHOICES: [_tokens(choice) for choice in reply.choices],
        **_usage(reply.usage),
    }
    if reply.hosted_usage is None:
        told[semconv.LINEAGE] = reply.lineage.outcome
        told[semconv.LINEAGE_REUSED] = reply.lineage.reused_tokens
        if reply.lineage.parent is not None:
            told[semconv.LINEAGE_PARENT] = reply.lineage.parent
        if reply.constrained:
            told[semconv.CONSTRAINED] = True
    return told


def replayed_attributes(reply: ChatReply, recorded: str) -> dict[str, JSON]:
    """Of a call that was answered with what was recorded of the call ``recorded``: what the agent was told,
    without the tokens, which are sampled and trained where they were recorded."""
    told = reply_attributes(replace(reply, prompt_ids=(), hosted_usage=reply.usage))
    told[semconv.CHOICES] = [
        _tokens(replace(choice, response_ids=(), logprobs=(), versions=())) for choice in reply.choices
    ]
    return told | {semconv.REPLAYED: recorded}


def aborted_attributes(messages: Sequence[Mapping[str, JSON]], tokens: int) -> dict[str, JSON]:
    """Of a call that ended after ``tokens`` tokens, because its agent hung up or its answer broke off. They
    are not kept: it is never trained."""
    return {
        semconv.OUTPUT_MESSAGES: list(messages),
        semconv.FINISH_REASONS: [semconv.ABORTED for _ in messages],
        semconv.PROMPT_IDS: [],
        semconv.CHOICES: [{"ids": [], "logprobs": [], "versions": []} for _ in messages],
        **_usage(Usage(0, tokens)),
    }


def is_aborted(call: Span) -> bool:
    """Whether it ended before its answer did: its agent hung up, or the answer broke off."""
    return semconv.ABORTED in call.attributes.get(semconv.FINISH_REASONS, ())


def is_replayed(call: Span) -> bool:
    """Whether it was answered from the record of another attempt."""
    return semconv.REPLAYED in call.attributes and not is_aborted(call)


def is_constrained(call: Span) -> bool:
    """Whether a grammar held its answers."""
    return semconv.CONSTRAINED in call.attributes


def answered(spans: Iterable[Span]) -> list[Span]:
    """The calls among the spans of an attempt, but those that were aborted, in the order in which they were
    answered: whatever a call was asked after comes before it."""
    calls = [span for span in spans if span.kind is SpanKind.CALL and not is_aborted(span)]
    return sorted(calls, key=lambda call: call.sequence)


def reply(call: Span) -> ChatReply:
    """What was recorded of an answered call: all but the log-probabilities that its agent was told."""
    told = lineage(call)
    if told is None:
        return ChatReply(prompt_ids(call), choices(call), hosted_usage=usage(call))
    return ChatReply(prompt_ids(call), choices(call), told, constrained=is_constrained(call))


def prompt_ids(call: Span) -> Sequence[int]:
    """Empty where the call has no tokens."""
    found: Sequence[int] = call.attributes.get(semconv.PROMPT_IDS, ())
    return found


def choices(call: Span) -> Sequence[Choice]:
    """Its answers; those without tokens have no ``response_ids``."""
    told = call.attributes
    rows = zip_longest(
        told.get(semconv.CHOICES) or (),
        told.get(semconv.OUTPUT_MESSAGES) or (),
        told.get(semconv.FINISH_REASONS) or (),
    )
    return [
        Choice(
            index,
            message or {},
            reason or "",
            tokens["ids"] if tokens else (),
            tokens["logprobs"] if tokens else (),
            [VersionSpan(*version) for version in tokens["versions"]] if tokens else (),
            tokens.get("stop") if tokens else None,
            calls_left_out=tokens.get("calls_left_out", 0) if tokens else 0,
        )
        for index, (tokens, message, reason) in enumerate(rows)
    ]


def policy(call: Span) -> str:
    """Which of several policies answered it; empty: there is one."""
    return str(call.attributes.get(semconv.POLICY, ""))


def is_frozen(call: Span) -> bool:
    """Whether who answered it does not learn."""
    return semconv.FROZEN in call.attributes


def sampled_tokens(call: Span) -> int:
    """How many our engines sampled for it; counted without decoding them."""
    return sum(len(tokens["ids"]) for tokens in call.attributes.get(semconv.CHOICES) or () if tokens)


def versions(call: Span) -> Sequence[int]:
    """The policy versions that sampled its tokens, the oldest first."""
    return sorted({span.version for choice in choices(call) for span in choice.versions})


def usage(call: Span) -> Usage:
    told = call.attributes
    details = told.get(semconv.CACHED_TOKENS, 0), told.get(semconv.REASONING_TOKENS, 0)
    return Usage(told[semconv.INPUT_TOKENS], told[semconv.OUTPUT_TOKENS], *details)


def lineage(call: Span) -> Lineage | None:
    """None: a hosted model answered, or nobody."""
    told = call.attributes
    if semconv.LINEAGE not in told:
        return None
    outcome = LineageOutcome(told[semconv.LINEAGE])
    return Lineage(outcome, told.get(semconv.LINEAGE_PARENT), told.get(semconv.LINEAGE_REUSED, 0))


def conversation(call: Span) -> Sequence[Mapping[str, JSON]]:
    """What a call that continues this one begins with: its messages but the instructions, which are of one
    call alone, and the first answer."""
    told = call.attributes
    instructions = 1 if told.get(semconv.INSTRUCTIONS) else 0
    return [*told[semconv.INPUT_MESSAGES][instructions:], told[semconv.OUTPUT_MESSAGES][0]]


def _tokens(choice: Choice) -> dict[str, JSON]:
    return {
        "ids": list(choice.response_ids),
        "logprobs": list(choice.logprobs),
        "versions": [[span.version, span.start, span.end] for span in choice.versions],
        **({} if choice.stop is None else {"stop": choice.stop}),
        **({"calls_left_out": choice.calls_left_out} if choice.calls_left_out else {}),
    }


def _usage(used: Usage) -> dict[str, JSON]:
    told: dict[str, JSON] = {
        semconv.INPUT_TOKENS: used.input_tokens,
        semconv.OUTPUT_TOKENS: used.output_tokens,
    }
    details = {semconv.CACHED_TOKENS: used.cached_tokens, semconv.REASONING_TOKENS: used.reasoning_tokens}
    return told | {name: count for name, count in details.items() if count}
