"""From the spans of a rollout to what the learner sees: spans -> transitions -> trajectory.

Pure functions. Order is the store's sequence number, never a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from al_ray import semconv
from al_ray.types import Rollout, Span, SpanKind, Trajectory, Transition


def trajectory(rollout: Rollout) -> Trajectory:
    """The transitions of the rollout's deciding attempt, with rewards given to the calls before them."""
    ordered = sorted(rollout.spans, key=lambda span: span.sequence)
    transitions: list[Transition] = []
    total = 0.0
    for span in ordered:
        if span.kind is SpanKind.CALL:
            transitions.extend(call_transitions(span))
        elif span.kind is SpanKind.REWARD:
            value = float(span.attributes[semconv.REWARD])
            total += value
            if transitions:
                transitions[-1] = replace(transitions[-1], reward=transitions[-1].reward + value)
    request = rollout.request
    return Trajectory(request.id, request.group, request.task.id, tuple(transitions), total)


def call_transitions(span: Span) -> Sequence[Transition]:
    """One transition for each choice of the call, none for a call that produced no token."""
    attributes = span.attributes
    reasons = attributes[semconv.FINISH_REASONS]
    return [
        Transition(
            id=f"{span.id}/{index}",
            agent=str(attributes.get(semconv.AGENT_NAME, "")),
            prompt_ids=tuple(attributes[semconv.PROMPT_IDS]),
            response_ids=tuple(choice["ids"]),
            logprobs=tuple(choice["logprobs"]),
            policy_version=min(version for version, _, _ in choice["versions"]),
            finish_reason=reasons[index],
        )
        for index, choice in enumerate(attributes[semconv.CHOICES])
        if choice["ids"]
    ]
