"""What changes of a client's billing and of the clock ends no lineage; all else that changes does."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import pytest

from al_ray.algorithms.rows import build_rows
from al_ray.traces import volatile
from al_ray.traces.messages import Message
from al_ray.types import ChatReply, Trajectory, Transition
from tests.support.models.speaker import CHATML, Speaker, byte_level_tokenizer, said, tokens, user

TOKENIZER = byte_level_tokenizer()
END = "<|im_end|>"
BILLING = "x-anthropic-billing-header: cch=1;"
TODAY = date.today()
SIMULATED = date(2019, 3, 1)


def system(line: str, then: str = "Be brief.") -> Message:
    return {"role": "system", "content": f"{line}\n{then}"}


def _transition(id: str, reply: ChatReply) -> Transition:
    [choice] = reply.choices
    return Transition(id, "", tuple(reply.prompt_ids), tuple(choice.response_ids), tuple(choice.logprobs), 0)


LINES = [
    ("x-anthropic-billing-header: cc_version=2.1; cch=%d;", [1, 2, 3]),
    ("Today's date: %s 09:00:0" + "1", [TODAY, TODAY, TODAY + timedelta(1)]),
    ("Current time: %sT10:00:00", [TODAY, TODAY + timedelta(1), TODAY]),
    (f"Current time: {TODAY} 10:00:0%d. You are a critic, and it is 5 o'clock.", [1, 2, 3]),
]


@pytest.mark.parametrize(("line", "values"), LINES)
async def test_a_conversation_goes_on_though_its_first_line_changes(line: str, values: list[Any]) -> None:
    """With the line that it began with; and each token that was sampled is trained once, in one row."""
    speaker = Speaker(CHATML, TOKENIZER)
    messages: list[Message] = []
    replies = []
    for number, value in enumerate(values, start=1):
        messages += [user(f"hello {number}")]
        replies.append(await speaker.call([system(line % value), *messages], f"12{number}{END}"))
        messages.append(said(replies[-1]))
    assert [reply.lineage.outcome for reply in replies] == ["new", "continued", "continued"]
    for earlier, later in pairwise(replies):
        assert later.prompt_ids[: len(tokens(earlier))] == tokens(earlier)
    assert (line % values[0]) in speaker.decode(replies[-1].prompt_ids)
    transitions = [_transition(str(place), reply) for place, reply in enumerate(replies)]
    [row] = build_rows([Trajectory("r", "g", "t", transitions, 1.0)], [[1.0] * 3], "token_mean")
    assert int(row.trained.sum()) == sum(len(transition.response_ids) for transition in transitions)


@pytest.mark.parametrize("away", [-2, -1, 0, 1, 2])
def test_a_date_is_the_clocks_on_its_day_and_the_one_before_and_after(away: int) -> None:
    """Where the client is, it may be another day."""
    line = f"Today's date: {SIMULATED + timedelta(away)}"
    assert (volatile.without(line, SIMULATED) != line) is (abs(away) <= 1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (system(f"Current date: {SIMULATED}"), system(f"Current date: {SIMULATED + timedelta(1)}")),
        (system("Time: 3 hours"), system("Time: 5 hours")),
        (system("x-request-id: 1"), system("x-request-id: 2")),
        (system(f"The deadline is {TODAY}"), system(f"The deadline is {TODAY + timedelta(1)}")),
        (
            system("x-anthropic-billing-header: 1", "Be brief."),
            system("x-anthropic-billing-header: 2", "Be long."),
        ),
        (system("x-anthropic-billing-header: 1"), {"role": "system", "content": "Be brief."}),
        (system(f"Today's date is {TODAY}. You solve."), system(f"Today's date is {TODAY}. You criticize.")),
        (system(f"Today is {TODAY}. Cash: 500"), system(f"Today is {TODAY}. Cash: 20")),
        (system(f"Today is {TODAY}. 1500 left"), system(f"Today is {TODAY}. 2500 left")),
        (system(f"Today is {TODAY}. Friday is free"), system(f"Today is {TODAY}. Monday is free")),
    ],
)
async def test_what_an_agent_wants_to_say_is_said_and_opens_a_branch(first: Message, second: Message) -> None:
    """A simulated day among it."""
    speaker = Speaker(CHATML, TOKENIZER)
    one = await speaker.call([first, user("?")], "hello" + END)
    two = await speaker.call([second, user("?"), said(one), user("!")], "no" + END)
    assert two.lineage.outcome == "rewritten"
    assert str(second["content"]) in speaker.decode(two.prompt_ids)


async def test_such_a_line_is_not_one_in_what_the_user_says() -> None:
    speaker = Speaker(CHATML, TOKENIZER)
    one = await speaker.call([user(f"Today is {TODAY}")], "hello" + END)
    two = await speaker.call([user(f"Today is {TODAY + timedelta(1)}"), said(one), user("!")], "no" + END)
    assert two.lineage.outcome == "rewritten"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            f"{BILLING}\nBe brief.\nToday's date: {TODAY:%B} {TODAY.day}, {TODAY.year}\nx",
            2,
        ),
        (f"<env>\n  Today's date: {TODAY:%a %b} {TODAY.day} {TODAY.year}\n</env>", 1),
        (f"The current date and time is {TODAY.month}/{TODAY.day}/{TODAY.year}, 3:04 PM.", 1),
        (f"Today is {TODAY:%A, %B} {TODAY.day}, {TODAY.year}.", 1),
        (f"**Date:** {TODAY} 10:15:00.123456+02:00 (UTC)", 1),
        ("Today we are going to bake bread.", 0),
        ("", 0),
    ],
)
def test_pieces_are_found_and_put_back_as_they_were(text: str, found: int) -> None:
    pieces = volatile.pieces(text)
    assert len(pieces) == found
    assert volatile.with_pieces(text, iter(pieces)) == text
    assert volatile.without(text).count("\ue000") == found
    parts = [{"type": "text", "text": text}, {"type": "text", "text": text}]
    assert volatile.pieces(parts) == [*pieces, *pieces]
    assert volatile.with_pieces(parts, iter([*pieces, *pieces])) == parts


def test_a_date_is_the_clocks_on_the_day_that_it_was_said() -> None:
    """What was said last year and what is said today are the same without it; that of another day stays."""
    then, now = date(2025, 3, 9), date(2026, 11, 28)
    said = [f"Be brief.\nToday's date: {day:%Y-%m-%d}\nEnd." for day in (then, now)]
    assert volatile.without(said[0], then) == volatile.without(said[1], now) != said[1]
    assert volatile.without(said[0], now) == said[0]


@pytest.mark.parametrize(
    "line",
    [
        "x-billing: 1",
        "X-Anthropic-Billing-Header-Billing : cch=1; cch=2",
        f"Current time: 12:30:11 {TODAY}",
        f"Time: 12:30:11.25, {TODAY:%A}, {TODAY:%B} {TODAY.day}, {TODAY.year}",
        f"Today's date is {TODAY:%A}, {TODAY:%B} {TODAY.day}, {TODAY.year}",
        f"Today is {TODAY:%d.%m.%Y} 10:11",
        f"Date and time: {TODAY}T12:00:00 Z",
        f"Now: {TODAY:%b} {TODAY.day} 12:00 pm UTC",
        f"The current local time is now 9:05, {TODAY.day} {TODAY:%b} {TODAY.year} at 9:05 -03:00",
    ],
)
def test_a_line_that_tells_nothing_else_is_one_piece(line: str) -> None:
    assert volatile.pieces(f"Be brief.\n{line}\nBe kind.") == [line]


@pytest.mark.parametrize(
    "line",
    [
        "Time: " + ":".join(["12"] * 500),
        f"Today is {TODAY} " + "12:" * 20_000,
        f"Today is {TODAY} " + "-10:00" * 20_000 + "!",
        "Time: " + "12:12:12." + "1" * 100_000,
        "x-" + "billing" * 20_000,
        "x-billing" + " " * 100_000,
        "x-billing" + "\n" * 100_000,
        " " * 100_000 + "x",
        "*" * 100_000,
    ],
    ids=lambda line: line[:14].strip() or "blank",
)
def test_no_line_of_an_agents_takes_more_time_than_its_length(line: str) -> None:
    """Each of them is looked at in a moment; where it could be read in several ways, in hours."""
    assert len(volatile.pieces(line)) == line.startswith("Today is")
