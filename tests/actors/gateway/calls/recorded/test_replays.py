"""An attempt that repeats a recorded rollout is answered from its record up to a call, then sampled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
import pytest_asyncio

from al_ray.actors.gateway.calls.hosted.model import HostedModelSpec
from al_ray.database.backends import sqlite_url
from al_ray.rollouts.trajectory import trajectory
from al_ray.traces import call_span, semconv
from al_ray.traces.divergence import divergence_of
from al_ray.types import Attempt, Replay, Span, SpanKind
from tests.support.houses.at_hand import open_at_hand
from tests.support.houses.gateway import SPEC, TOOLS, House, beside, say
from tests.support.models.fake_engine import FakeEngine
from tests.support.runs import quiz

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other(house: House, engine_a: Any) -> AsyncIterator[House]:
    """The house with another gateway, which has the record of the first one's calls."""
    async with beside(house, engine_a, replace(SPEC, recorded=house.store_url)) as opened:
        yield opened


async def again(other: House, recorded: Attempt, calls: int) -> Attempt:
    """A new attempt that repeats the first ``calls`` calls of another one."""
    return await other.attempt(replay=Replay(recorded.rollout_id, recorded.number, calls))


def said(span: Span) -> Any:
    return [span.attributes[name] for name in (semconv.OUTPUT_MESSAGES, semconv.FINISH_REASONS)]


def events(house: House, attempt: Attempt) -> list[Span]:
    return [span for span in house.calls(attempt) if span.kind is SpanKind.EVENT]


async def chat(house: House, attempt: Attempt, content: str = "one", **options: Any) -> Any:
    told = await house.ask(attempt, content, **options)
    return told.choices, told.usage


async def chat_streamed(house: House, attempt: Attempt, content: str = "one", **options: Any) -> Any:
    chunks = await house.chunks(attempt, content, stream_options={"include_usage": True}, **options)
    pieces = [choice for chunk in chunks for choice in chunk.choices]
    text: dict[Any, str] = {}
    for piece in pieces:
        for call in piece.delta.tool_calls or ():
            told = piece.index, call.function.name or ""
            text[piece.index, "call"] = text.get((piece.index, "call"), "") + told[1]
            arguments = call.function.arguments or ""
            text[piece.index, "arguments"] = text.get((piece.index, "arguments"), "") + arguments
        text[piece.index] = text.get(piece.index, "") + (piece.delta.content or "")
    return text, [piece.finish_reason for piece in pieces if piece.finish_reason], chunks[-1].usage


async def completion(house: House, attempt: Attempt, prompt: Any = "stop", stream: bool = False) -> Any:
    async with house.client(attempt) as client:
        if not stream:
            told = await client.completions.create(model="m", prompt=prompt)
            return told.choices, told.usage
        found = await client.completions.create(model="m", prompt=prompt, stream=True)
        choices = [choice async for chunk in found for choice in chunk.choices]
        return "".join(choice.text for choice in choices), choices[-1].finish_reason


async def response(house: House, attempt: Attempt, stream: bool = False, **options: Any) -> Any:
    """The second one continues the first, which the client names by its id."""
    async with house.client(attempt) as client:
        told = []
        for previous in (None, "the first"):
            named = told[0].id if previous else None
            asked: Any = {"model": "m", "input": "think", "previous_response_id": named, **options}
            if stream:
                found = [event async for event in await client.responses.create(stream=True, **asked)]
                told.append(found[-1].response)
            else:
                told.append(await client.responses.create(**asked))
        fetched = await client.responses.retrieve(told[1].id)
        assert (fetched.output_text, fetched.usage) == (told[1].output_text, told[1].usage)
    return [
        ([item.model_dump(exclude={"id"}) for item in each.output], each.status, each.usage) for each in told
    ]


async def message(house: House, attempt: Attempt, stream: bool = False, content: str = "stop") -> Any:
    asked: Any = {"model": "m", "max_tokens": 9, "messages": say(content)}
    async with house.anthropic(attempt) as client:
        if not stream:
            told = await client.messages.create(**asked)
        else:
            async with client.messages.stream(**asked) as found:
                told = await found.get_final_message()
    return told.model_dump(exclude={"id"})


ASKS: dict[str, Callable[[House, Attempt], Awaitable[Any]]] = {
    "chat": chat,
    "chat with choices": lambda house, attempt: chat(house, attempt, n=2),
    "chat with tools": lambda house, attempt: chat(house, attempt, tools=TOOLS),
    "chat that was cut": lambda house, attempt: chat(house, attempt, "long"),
    "chat that was thought": lambda house, attempt: chat(house, attempt, "think"),
    "chat streamed": chat_streamed,
    "chat streamed with choices": lambda house, attempt: chat_streamed(house, attempt, n=2),
    "chat streamed with tools": lambda house, attempt: chat_streamed(house, attempt, tools=TOOLS),
    "completion": completion,
    "completion of tokens": lambda house, attempt: completion(house, attempt, [1, 2, 3]),
    "completion streamed": lambda house, attempt: completion(house, attempt, stream=True),
    "responses": response,
    "responses streamed": lambda house, attempt: response(house, attempt, stream=True),
    "responses with tools": lambda house, attempt: response(
        house, attempt, tools=[{"type": "function", "name": "add", "parameters": {}}]
    ),
    "message": message,
    "message streamed": lambda house, attempt: message(house, attempt, stream=True),
    "message streamed that was thought": lambda house, attempt: message(house, attempt, True, "think"),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
async def test_every_api_gives_a_repeated_call_what_was_recorded(
    served: House, other: House, engine_a: Any, ask: Callable[[House, Attempt], Awaitable[Any]]
) -> None:
    """Text, tool calls, ends and usage, and no engine is asked."""
    first = await served.attempt()
    told = await ask(served, first)
    count = len(call_span.answered(served.calls(first)))
    second = await again(other, first, count)
    asked = len(await engine_a.requests.remote())
    assert await ask(other, second) == told
    assert len(await engine_a.requests.remote()) == asked
    mine, recorded = (call_span.answered(served.calls(each)) for each in (second, first))
    assert list(map(said, mine)) == list(map(said, recorded))
    assert [span.attributes[semconv.REPLAYED] for span in mine] == [span.id for span in recorded]


async def test_what_was_repeated_is_neither_sampled_nor_trained(served: House, other: House) -> None:
    """Its span has no tokens; the call after it has, and is the rollout's only transition."""
    first = await served.attempt()
    for content in ("one", "two"):
        await served.ask(first, content)
    second = await again(other, first, 1)
    for content in ("one", "another"):
        await other.ask(second, content)
    replayed, sampled = call_span.answered(served.calls(second))
    assert call_span.is_replayed(replayed) and not call_span.is_replayed(sampled)
    assert (call_span.sampled_tokens(replayed), call_span.sampled_tokens(sampled)) == (0, 2)
    assert call_span.prompt_ids(replayed) == [] and call_span.lineage(replayed) is None
    assert call_span.usage(replayed) == call_span.usage(sampled)
    episode = trajectory(served.rollout(second))
    assert [transition.of_call for transition in episode.transitions] == [sampled.id]
    assert episode.left_out == {"replayed": 1}


async def test_the_engine_is_told_of_what_it_did_not_answer(
    served: House, other: House, engine_a: Any
) -> None:
    """So that what continues it begins with the tokens that were recorded."""
    first = await served.attempt()
    await served.ask(first, "to be remembered")
    second = await again(other, first, 1)
    await other.ask(second, "to be remembered")
    request, reply = (await engine_a.remembered.remote())[-1]
    assert request.attempt == f"{second.rollout_id}/{second.number}"
    assert request.messages == say("to be remembered")
    assert (reply.prompt_ids, reply.choices[0].response_ids) == ([1, 2, 3], [7, 8])


async def test_calls_that_are_made_side_by_side_may_come_in_another_order(
    served: House, other: House
) -> None:
    first = await served.attempt()
    contents = [f"part {number}" for number in range(6)]
    for content in contents:
        await served.ask(first, content)
    second = await again(other, first, 6)
    await asyncio.gather(*(other.ask(second, content) for content in reversed(contents)))
    recorded = {span.attributes[semconv.INPUT_MESSAGES][0]["content"]: span for span in served.calls(first)}
    for span in served.calls(second):
        content = span.attributes[semconv.INPUT_MESSAGES][0]["content"]
        assert span.attributes[semconv.REPLAYED] == recorded[content].id


async def test_the_same_call_made_again_is_given_each_of_the_answers_once(
    served: House, other: House
) -> None:
    """As an agent does that draws several samples: the third is beyond what is to be repeated."""
    first = await served.attempt()
    for _ in range(3):
        await served.ask(first, "a question")
    second = await again(other, first, 2)
    for _ in range(3):
        await other.ask(second, "a question")
    recorded = [span.id for span in served.calls(first)]
    found = [span.attributes.get(semconv.REPLAYED) for span in call_span.answered(served.calls(second))]
    assert found == [*recorded[:2], None]


async def test_a_call_beyond_the_repeated_ones_may_come_before_the_last_of_them(
    served: House, other: House
) -> None:
    """Two agents side by side, of which one is quicker now: it goes on, and what it asks from then on is
    nobody's to compare."""
    first = await served.attempt()
    for content in ("a one", "b one", "a two"):
        await served.ask(first, content)
    second = await again(other, first, 2)
    for content in ("a one", "a two", "a three, otherwise", "b one"):
        await other.ask(second, content)
    found = [call_span.is_replayed(span) for span in call_span.answered(served.calls(second))]
    assert found == [True, False, False, True] and not events(served, second)


async def test_what_a_hosted_model_said_is_given_again_and_it_is_not_asked(
    house: House, engine_a: Any
) -> None:
    with quiz.served() as server:
        spec = replace(SPEC, hosted={"wise": HostedModelSpec(server.url, "wise", None)})
        async with (
            beside(house, engine_a, spec) as one,
            beside(house, engine_a, replace(spec, recorded=house.store_url)) as two,
        ):
            first = await one.attempt()
            async with one.client(first) as client:
                told = await client.chat.completions.create(model="wise", messages=say("3"))
            second = await again(two, first, 1)
            async with two.client(second) as client:
                repeated = await client.chat.completions.create(model="wise", messages=say("3"))
                assert (repeated.choices, repeated.usage) == (told.choices, told.usage)
                await client.chat.completions.create(model="wise", messages=say("4"))
        assert server.asked == {"3": 1, "4": 1}
    assert [span.attributes[semconv.HOSTED] for span in house.calls(second)] == [True, True]


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        ("it is 12:04", {}, "messages[0].content: 'it is 12:03' recorded, 'it is 12:04' asked"),
        ("it is 12:03", {"tools": TOOLS}, "tools: 'null' recorded, "),
        ("it is 12:03", {"n": 2}, "n: '1' recorded, '2' asked"),
        ("it is 12:03", {"logprobs": True}, "logprobs: recorded calls are answered without them"),
        ("it is 12:03", {"stream": True}, None),
        ("it is 12:03", {"temperature": 0.1, "seed": 3}, None),
    ],
)
async def test_an_agent_that_asks_otherwise_has_diverged(
    served: House, other: House, content: str, options: dict[str, Any], told: str | None
) -> None:
    """It is refused from then on, and one event tells the call's number and the first difference. How a call
    is to be sampled makes none, nor does it whether it is streamed."""
    first = await served.attempt()
    for each in ("begin", "it is 12:03", "end"):
        await served.ask(first, each)
    second = await again(other, first, 3)
    await other.ask(second, "begin")
    if told is None:
        await other.ask(second, content, **options)
        assert not events(served, second)
        return
    with pytest.raises(openai.BadRequestError, match="asked otherwise in its call 2"):
        await other.ask(second, content, **options)
    for content in ("it is 12:03", "end"):
        with pytest.raises(openai.BadRequestError, match="asked otherwise in its call 2"):
            await other.ask(second, content)
    [event] = events(served, second)
    found = divergence_of(event)
    assert found is not None and found.call == 2 and found.difference.startswith(told)
    assert len(call_span.answered(served.calls(second))) == 1


async def test_lines_that_a_client_writes_anew_each_time_are_no_other_question(
    served: House, other: House
) -> None:
    """Of the system's messages alone."""
    first = await served.attempt()
    asked = [[{"role": role, "content": f"x-client-billing-header: {number}\nBe brief."}, *say("one")]
             for number in (1, 2) for role in ("system", "user")]  # fmt: skip
    async with served.client(first) as client:
        for messages in asked[:2]:
            await client.chat.completions.create(model="m", messages=messages)
    second = await again(other, first, 2)
    async with other.client(second) as client:
        await client.chat.completions.create(model="m", messages=asked[2])
        with pytest.raises(openai.BadRequestError, match="in its call 2"):
            await client.chat.completions.create(model="m", messages=asked[3])


async def test_an_agent_cannot_tell_that_it_has_diverged(served: House, other: House) -> None:
    """An event of its own, of whatever name and attributes, is none."""
    first = await served.attempt()
    await served.ask(first, "one")
    second = await again(other, first, 1)
    told = {semconv.DIVERGED_CALL: "x", semconv.DIFFERENCE: "y"}
    for own_id in (None, "diverged"):
        body = orjson.dumps({"name": "replay diverged", "attributes": told, "id": own_id})
        status, _ = await other.post(body, second.key, "/al_ray/events")
        assert status == 200
    assert list(map(divergence_of, events(served, second))) == [None, None]
    await other.ask(second, "one")
    assert call_span.is_replayed(call_span.answered(served.calls(second))[0])


async def test_another_gateway_goes_on_where_the_first_one_was(
    served: House, other: House, engine_a: Any
) -> None:
    """What was repeated is not repeated again, and who has diverged stays so."""
    first = await served.attempt()
    for content in ("one", "one", "two"):
        await served.ask(first, content)
    second, lost = await again(other, first, 2), await again(other, first, 3)
    await other.ask(second, "one")
    with pytest.raises(openai.BadRequestError):
        await other.ask(lost, "otherwise")
    async with beside(served, engine_a, replace(SPEC, recorded=served.store_url)) as third:
        for content in ("one", "two"):
            await third.ask(second, content)
        with pytest.raises(openai.BadRequestError, match="in its call 1"):
            await third.ask(lost, "one")
    found = [span.attributes.get(semconv.REPLAYED) for span in call_span.answered(served.calls(second))]
    assert found == [*(span.id for span in served.calls(first)[:2]), None]


async def test_what_is_long_is_shown_from_a_little_before_it_differs(served: House, other: House) -> None:
    first = await served.attempt()
    await served.ask(first, "x" * 500 + " at noon")
    second = await again(other, first, 1)
    with pytest.raises(openai.BadRequestError) as refused:
        await other.ask(second, "x" * 500 + " at midnight")
    [event] = events(served, second)
    told = event.attributes[semconv.DIFFERENCE]
    assert told in str(refused.value) and len(told) < 250
    assert " at noon' recorded" in told and " at midnight' asked" in told


class Away(FakeEngine):
    """An engine that is told of nothing until it is ``back``."""

    def __init__(self) -> None:
        super().__init__("a")
        self.waited_for, self.back = asyncio.Event(), asyncio.Event()

    async def remember(self, request: Any, reply: Any) -> None:
        self.waited_for.set()
        await self.back.wait()


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("ask", [House.ask, House.chunks])
async def test_a_call_whose_agent_gives_up_waiting_is_repeated_when_it_asks_again(
    tmp_path: Path, calls: int, ask: Callable[..., Awaitable[Any]]
) -> None:
    """Also at another gateway; what was given up counts neither as repeated nor as sampled anew."""
    engine = Away()
    spec = replace(SPEC, recorded=sqlite_url(tmp_path / "store.sqlite"))
    async with open_at_hand(tmp_path, engine, spec) as mine, open_at_hand(tmp_path, engine, spec) as third:
        first = await mine.attempt()
        for content in ("one", "two"):
            await mine.ask(first, content)
        recorded = [span.id for span in mine.calls(first)]
        second = await mine.attempt(replay=Replay(first.rollout_id, first.number, calls))
        async with asyncio.timeout(60):
            for house in (mine, mine, third):
                impatient = asyncio.ensure_future(ask(house, second, "one"))
                await engine.waited_for.wait()
                impatient.cancel()
                engine.waited_for.clear()
            while len(mine.calls(second)) < 3:
                await asyncio.sleep(0.02)
        assert all(span.attributes[semconv.REPLAYED] == recorded[0] for span in mine.calls(second))
        assert not any(map(call_span.is_replayed, mine.calls(second)))
        engine.back.set()
        await ask(third, second, "one")
        with pytest.raises(openai.BadRequestError) if calls == 2 else nullcontext():
            await third.ask(second, "another")
        again = call_span.answered(mine.calls(second))
        assert [span.attributes.get(semconv.REPLAYED) for span in again] == [recorded[0], None][: 3 - calls]
