"""Many awaits become few messages, and each gets its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from al_ray.actors.coalescer import Coalescer


class Receiver:
    """Answers with the item doubled; refuses 13; fails on a message that has 0 in it."""

    def __init__(self) -> None:
        self.messages: list[list[int]] = []

    async def __call__(self, items: list[int]) -> Sequence[int | Exception]:
        self.messages.append(items)
        await asyncio.sleep(0.01)
        if 0 in items:
            raise ConnectionError("nobody is there")
        return [ValueError("13") if item == 13 else 2 * item for item in items]


async def test_what_comes_while_a_message_is_under_way_shares_the_next() -> None:
    receiver = Receiver()
    ask: Coalescer[int, int] = Coalescer(receiver)
    first = asyncio.ensure_future(ask(1))
    await asyncio.sleep(0.001)
    assert await asyncio.gather(first, *map(ask, range(101, 201))) == [2, *range(202, 402, 2)]
    assert receiver.messages == [[1], list(range(101, 201))]
    assert await ask(7) == 14, "also after everything was answered"


async def test_each_gets_its_own_error_and_all_that_of_their_message() -> None:
    ask: Coalescer[int, int] = Coalescer(Receiver())
    outcomes = await asyncio.gather(ask(1), ask(13), ask(2), return_exceptions=True)
    assert [repr(outcome) for outcome in outcomes] == ["2", "ValueError('13')", "4"]
    outcomes = await asyncio.gather(ask(1), ask(0), return_exceptions=True)
    assert all(isinstance(outcome, ConnectionError) for outcome in outcomes)
    assert await ask(1) == 2


async def test_who_no_longer_waits_spoils_it_for_nobody() -> None:
    ask: Coalescer[int, int] = Coalescer(Receiver())
    given_up, other = asyncio.ensure_future(ask(1)), asyncio.ensure_future(ask(2))
    await asyncio.sleep(0.001)
    given_up.cancel()
    assert await other == 4
    with pytest.raises(asyncio.CancelledError):
        await given_up
