"""Messages of calls, as they are compared."""

from __future__ import annotations

from datetime import date, datetime, time

import pytest

from al_ray.traces import messages
from al_ray.types import Span, SpanKind


def test_messages_that_differ_in_the_ids_of_their_tool_calls_alone_are_the_same_without_them() -> None:
    """Nothing else is left out, however deep it lies."""

    def conversation(id: str) -> list[messages.Message]:
        call = {"id": id, "type": "function", "function": {"name": "add", "arguments": "{}"}}
        return [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": id, "content": [{"type": "text", "text": "3"}]},
        ]

    function = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    for id in ("a", "b"):
        assert messages.without_ids(conversation(id)) == [
            {"role": "assistant", "content": None, "tool_calls": [function]},
            {"role": "tool", "content": [{"type": "text", "text": "3"}]},
        ]


def _call(start: float) -> Span:
    return Span("c", "r", 1, SpanKind.CALL, "chat", start, start, {})


@pytest.mark.parametrize(
    ("role", "one", "other", "is_same"),
    [
        ("user", {"content": "a"}, {"content": [{"type": "text", "text": "a"}]}, True),
        ("user", {"content": "a"}, {"content": "a\n"}, False),
        ("user", {"content": "a"}, {"content": "a", "role": "system"}, False),
        ("assistant", {"content": "a"}, {"content": "a\n", "refusal": None}, True),
        ("assistant", {"content": "a", "reasoning": "b"}, {"content": "a"}, True),
        ("tool", {"content": "a"}, {"content": "a", "tool_call_id": "1"}, True),
    ],
)
def test_what_an_agent_sends_back_says_the_same_in_any_shape(
    role: str, one: messages.Message, other: messages.Message, is_same: bool
) -> None:
    call = _call(0.0)
    told = [messages.said({"role": role, **message}, call) for message in (one, other)]
    assert (told[0] == told[1]) is is_same


def test_each_call_has_the_clock_of_its_own_day() -> None:
    """Whoever reads it, and when."""
    days = [date(2025, 3, 9), date(2026, 11, 28)]
    calls = [_call(datetime.combine(day, time(12)).timestamp()) for day in days]
    told = [{"role": "developer", "content": f"Be brief.\nToday's date: {day}"} for day in days]
    assert messages.said(told[0], calls[0]) == messages.said(told[1], calls[1])
    assert messages.said(told[0], calls[0]) != messages.said(told[0], calls[1])
    users = [{**message, "role": "user"} for message in told]
    assert messages.said(users[0], calls[0]) != messages.said(users[1], calls[1])
