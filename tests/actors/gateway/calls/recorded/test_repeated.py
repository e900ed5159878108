"""A call that was recorded but whose answer was lost is answered once more, and not made again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from al_ray.actors.gateway.calls.recorded.repeated import RETRY_HEADER
from tests.support.houses.gateway import TOOLS, House, beside, say

pytestmark = pytest.mark.asyncio(loop_scope="module")

AGAIN = {RETRY_HEADER: "1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other(house: House, engine_a: Any) -> AsyncIterator[House]:
    """The house with another gateway, which has never heard of what a test asks at the first."""
    async with beside(house, engine_a) as opened:
        yield opened


@pytest.mark.parametrize("options", [{}, {"n": 2}, {"tools": TOOLS}, {"temperature": 0.5, "max_tokens": 9}])
async def test_after_its_gateways_death_a_repeated_call_gets_the_answer_that_was_recorded(
    served: House, other: House, engine_a: Any, options: dict[str, Any]
) -> None:
    """Each once: who repeats it twice has made another call."""
    attempt = await served.attempt()
    first = await served.ask(attempt, "a question", **options)
    asked = len(await engine_a.requests.remote())
    again = await other.ask(attempt, "a question", extra_headers=AGAIN, **options)
    assert again.model_copy(update={"created": first.created}) == first
    assert [span.id for span in served.calls(attempt)] == [first.id]
    assert len(await engine_a.requests.remote()) == asked
    assert (await other.ask(attempt, "a question", extra_headers=AGAIN, **options)).id != first.id


async def test_every_api_answers_a_repeated_call_from_the_record(served: House, other: House) -> None:
    attempt = await served.attempt()
    async with served.client(attempt) as client, other.client(attempt) as late:
        for prompt in ("stop", [1, 2, 3]):
            done = await client.completions.create(model="m", prompt=prompt)
            again = await late.completions.create(model="m", prompt=prompt, extra_headers=AGAIN)
            assert (again.id, again.choices) == (done.id, done.choices)
        told = await client.responses.create(model="m", input="x")
        repeated = await late.responses.create(model="m", input="x", extra_headers=AGAIN)
        assert (repeated.id, repeated.output_text) == (told.id, told.output_text)
    message: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": say("stop")}
    async with served.anthropic(attempt) as client, other.anthropic(attempt) as late:
        said = await client.messages.create(**message)
        assert said.stop_reason == "stop_sequence"
        assert await late.messages.create(**message, extra_headers=AGAIN) == said


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("another question", {}),
        ("a question", {"temperature": 0.1}),
        ("a question", {"tools": TOOLS}),
        ("a question", {"logprobs": True}),
        ("a question", {"response_format": {"type": "json_object"}}),
        ("a question", {"parallel_tool_calls": False}),
    ],
)
async def test_another_call_is_not_answered_with_what_was_recorded(
    served: House, other: House, content: str, options: dict[str, Any]
) -> None:
    attempt = await served.attempt()
    await served.ask(attempt, "a question")
    async with other.client(attempt) as client:
        await client.chat.completions.create(model="m", messages=say(content), extra_headers=AGAIN, **options)
    assert len(served.calls(attempt)) == 2


async def test_a_call_that_was_answered_is_made_again_for_who_asks_the_same_again(served: House) -> None:
    """As an agent does that draws several samples, one of whose calls failed in between."""
    attempt = await served.attempt()
    answers = [await served.ask(attempt, extra_headers=headers) for headers in ({}, AGAIN, AGAIN)]
    assert len({answer.id for answer in answers}) == 3


async def test_nobody_is_shown_anothers_answer_or_one_of_an_attempt_that_has_ended(
    served: House, other: House
) -> None:
    attempt, stranger = await served.attempt(), await served.attempt()
    mine = await served.ask(attempt)
    assert (await other.ask(stranger, extra_headers=AGAIN)).id != mine.id
    await served.ask(attempt, "a second")
    await other.ask(attempt, "a third")
    await served.end(attempt)
    with pytest.raises(openai.AuthenticationError):
        await other.ask(attempt, "a second", extra_headers=AGAIN)
