"""Calls that engines die of cost two engines, three where others were beside them, and nobody else's call."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import ray

from al_ray.actors.gateway.calls.engines.deadly import DeadlyQuestions, Question
from al_ray.errors import BadRequestError
from al_ray.types import ChatRequest, Sampling
from tests.support.houses.gateway import House, engine, say


@pytest.fixture
def engines(ray_cluster: None) -> Iterator[list[Any]]:
    """Four, a to d."""
    made = [engine(name) for name in "abcd"]
    yield made
    for actor in made:
        ray.kill(actor)


async def alive(engines: list[Any]) -> list[bool]:
    pings = (actor.requests.remote() for actor in engines)
    return [
        not isinstance(found, Exception) for found in await asyncio.gather(*pings, return_exceptions=True)
    ]


async def deadly_call(house: House, why: str, **options: Any) -> None:
    """A call that every engine dies of; ``why`` tells it from those of other tests."""
    messages: Any = [{"role": "system", "content": why}, *say("die")]
    async with house.client(await house.attempt()) as client:
        answer = await client.chat.completions.create(model="any", messages=messages, **options)
        if options.get("stream"):
            _ = [chunk async for chunk in answer]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_ended_two_engines_is_refused_and_never_asked_again(
    house: House, engines: list[Any], stream: bool
) -> None:
    """Not by another attempt either, with other sampling; and every other call is answered."""
    await house.admit(*engines)
    for temperature in (0.3, 0.5):
        with pytest.raises(openai.BadRequestError, match="engines died, one after the other"):
            await deadly_call(house, f"stream: {stream}", stream=stream, temperature=temperature)
        assert sum(await alive(engines)) == 2
    assert await house.ask(await house.attempt())
    await house.admit()


async def test_calls_that_were_beside_it_at_each_death_are_answered(house: House, engines: list[Any]) -> None:
    """They are asked one after the other then, which tells them from it."""
    for actor in engines[1:]:
        await actor.release.remote()
    await house.admit(engines[0])
    attempts = [await house.attempt() for _ in range(4)]
    beside = [asyncio.ensure_future(house.ask(attempt, "wait")) for attempt in attempts]
    while len(await engines[0].requests.remote()) < len(beside):
        await asyncio.sleep(0.02)
    deadly = asyncio.ensure_future(deadly_call(house, "beside others"))
    while (await alive(engines))[0]:
        await asyncio.sleep(0.02)
    await house.admit(*engines[1:])
    for answer in await asyncio.gather(*beside):
        assert answer.choices[0].message.content[0] in "bcd"
    with pytest.raises(openai.BadRequestError):
        await deadly
    assert True in await alive(engines)
    await house.admit()


def question(content: str, **changed: Any) -> Question:
    return Question(ChatRequest("c", say(content), Sampling(), **changed))


async def test_the_cause_is_whoever_was_alone_in_losing_two_engines() -> None:
    deadly = DeadlyQuestions()
    cause, innocent, other = question("cause"), question("innocent"), question("other")
    deadly.engine_died({cause, innocent})
    deadly.engine_died({cause, other})
    for asked in (innocent, other):
        deadly.refuse(asked)
    for asked in (cause, question("cause", attempt="another/1")):
        with pytest.raises(BadRequestError):
            deadly.refuse(asked)


async def test_several_that_lost_two_engines_together_are_asked_one_after_the_other() -> None:
    deadly = DeadlyQuestions()
    suspects = [question(f"{number}") for number in range(3)]
    for _ in range(2):
        deadly.engine_died(suspects)
    at_once, most = 0, 0

    async def asked(suspect: Question) -> None:
        nonlocal at_once, most
        async with deadly.turn(suspect):
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)
            if suspect is suspects[1]:
                deadly.engine_died({suspect, question("new")})
            at_once -= 1

    await asyncio.gather(*map(asked, suspects))
    assert most == 1
    with pytest.raises(BadRequestError):
        deadly.refuse(suspects[1])
    for innocent in (suspects[0], question("new")):
        deadly.refuse(innocent)


async def test_a_call_whose_engines_were_let_go_and_ended_is_not_suspected(
    house: House, engines: list[Any]
) -> None:
    """As those of nodes that are taken away: it is asked elsewhere, as often as that takes."""
    await house.admit(engines[0])
    async with house.client(await house.attempt()) as client:
        asking = asyncio.create_task(client.chat.completions.create(model="any", messages=say("wait")))
        for leaves, stays in itertools.pairwise(engines):
            async with asyncio.timeout(60):
                while not await leaves.requests.remote():
                    await asyncio.sleep(0.05)
            await house.admit(stays)
            ray.kill(leaves)
        await engines[-1].release.remote()
        assert (await asking).choices[0].message.content == "d0"
    await house.admit()
