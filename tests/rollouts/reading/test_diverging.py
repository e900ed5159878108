"""Where two rollouts of one task part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import pytest

from al_ray.rollouts.reading.diverging import parting
from al_ray.traces import semconv
from al_ray.types import JSON, Rollout, RolloutRequest, RolloutStatus, Span, SpanKind, Task


def rollout(*calls: tuple[str, str], ids: str = "x") -> Rollout:
    spans = [_call(place, asked, said, ids) for place, (asked, said) in enumerate(calls)]
    return Rollout(RolloutRequest("r", "b", "g", Task("t", {})), RolloutStatus.SUCCEEDED, (), spans)


def _call(place: int, asked: str, said: str, ids: str) -> Span:
    told = {"id": f"{ids}{place}", "type": "function", "function": {"name": "add", "arguments": said}}
    attributes: dict[str, JSON] = {
        semconv.INPUT_MESSAGES: [{"role": "tool", "tool_call_id": ids, "content": asked}],
        semconv.OUTPUT_MESSAGES: [{"role": "assistant", "tool_calls": [told]}],
        semconv.CHOICES: [{"ids": [7], "logprobs": [-1.0], "versions": [[0, 0, 1]]}],
    }
    return Span(f"{ids}{place}", "r", 1, SpanKind.CALL, "chat", place, place + 0.5, attributes, place)


@pytest.mark.parametrize(
    ("second", "number", "how"),
    [
        ([("a", "1"), ("b", "3")], 2, "answered"),
        ([("a", "1"), ("c", "2")], 2, "asked"),
        ([("a", "1")], 2, "missing"),
        ([("a", "1"), ("b", "2"), ("d", "4")], 3, "missing"),
    ],
)
def test_the_first_call_that_differs_is_found(
    second: Sequence[tuple[str, str]], number: int, how: str
) -> None:
    found = parting(rollout(("a", "1"), ("b", "2")), rollout(*second))
    assert found is not None and (found.number, found.how) == (number, how)
    told = [call for call in (found.first, found.second) if call is not None]
    assert all(call.number == number for call in told) and len(told) == (1 if how == "missing" else 2)


def test_ids_are_no_difference() -> None:
    assert parting(rollout(("a", "1"), ids="x"), rollout(("a", "1"), ids="y")) is None


def test_the_clock_and_the_layout_of_arguments_are_no_difference_what_was_thought_is_one() -> None:
    def at(second: int, arguments: str, thought: str | None = None) -> Rollout:
        [call] = rollout(("a", arguments)).spans
        system = {"role": "system", "content": f"Time: {date.fromtimestamp(call.start)} 09:00:{second:02}"}
        said = {**call.attributes[semconv.OUTPUT_MESSAGES][0], "reasoning": thought}
        attributes = {
            **call.attributes,
            semconv.INPUT_MESSAGES: [system, *call.attributes[semconv.INPUT_MESSAGES]],
            semconv.OUTPUT_MESSAGES: [said],
        }
        return replace(rollout(), spans=[replace(call, attributes=attributes)])

    assert parting(at(1, '{"a": 1}'), at(2, '{"a":1}')) is None
    found = parting(at(1, '{"a": 1}', "hm"), at(2, '{"a": 1}', "so"))
    assert found is not None and found.how == "answered"
