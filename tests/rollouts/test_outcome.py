"""How rollouts ended, as far as the health of a run goes."""

from __future__ import annotations

from dataclasses import replace

from al_ray.rollouts.outcome import errors, outcome_of
from al_ray.traces import call_span, semconv
from al_ray.types import Attempt, AttemptStatus, Rollout, RolloutRequest, RolloutStatus, Span, SpanKind, Task


def rollout(name: str, *, error: str | None = None, asked: str | None = "toy") -> Rollout:
    request = RolloutRequest(name, "b", "g", Task("t", {}))
    status = AttemptStatus.SUCCEEDED if error is None else AttemptStatus.FAILED
    call = Span("c", name, 1, SpanKind.CALL, "chat", 0, 1, {semconv.REQUEST_MODEL: asked}, 0)
    ended = RolloutStatus.SUCCEEDED if error is None else RolloutStatus.FAILED
    return Rollout(request, ended, [Attempt(name, 1, "k", status, error=error)], [call] if asked else [])


def test_an_answer_of_another_model_is_none_of_the_model() -> None:
    """An agent that asks only a hosted model, a judge say, gives nothing to learn."""
    called = [outcome_of(rollout("r", asked=asked), "toy").called for asked in ("toy", "judge", None)]
    assert called == [True, False, False]


def test_a_call_whose_client_gave_it_up_is_not_answered() -> None:
    """An agent whose client is out of time at every call gives nothing to learn."""
    waited = rollout("r")
    [call] = waited.spans
    told = {**call.attributes, **call_span.aborted_attributes([{"role": "assistant", "content": "4"}], 1)}
    assert not outcome_of(replace(waited, spans=[replace(call, attributes=told)]), "toy").called
    assert outcome_of(replace(waited, spans=[replace(call, attributes=told), call]), "toy").called


def test_errors_that_differ_in_their_task_alone_are_one_and_the_commonest_is_first() -> None:
    told = ["KeyError: 'a'", "ValueError: row 1", "ValueError: row 2"]
    found = errors([outcome_of(rollout(f"r{i}", error=each), "toy") for i, each in enumerate(told)])
    assert [(each.error.said, each.count, each.rollout) for each in found] == [
        ("ValueError: row 1", 2, "r1"),
        ("KeyError: 'a'", 1, "r0"),
    ]


def test_what_succeeded_is_no_error_and_a_rollout_without_an_attempt_is_told_by_its_status() -> None:
    request = RolloutRequest("r", "b", "g", Task("t", {}))
    cancelled = Rollout(request, RolloutStatus.CANCELLED)
    [found] = errors([outcome_of(each, "toy") for each in (rollout("s"), cancelled)])
    assert (found.error.said, found.count) == ("cancelled", 1)
