"""A call's way from its agent and back: what is recorded and counted of one that ends before its time, and
what a client is told that asks for the same again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from al_ray.actors.gateway.attempt_limits import Limits
from al_ray.actors.gateway.calls.recorded.repeated import RETRY_HEADER
from al_ray.errors import EngineUnavailableError
from al_ray.traces import call_span
from al_ray.types import Attempt, ChatDelta, ChatReply, ModelRequest
from tests.support.houses.at_hand import open_at_hand
from tests.support.houses.gateway import SPEC, TOOLS, House, say
from tests.support.models.fake_engine import FakeEngine

AGAIN = {RETRY_HEADER: "1"}


class Frail(FakeEngine):
    """Every stream of its breaks off after a token of text."""

    async def stream(self, request: ModelRequest) -> AsyncIterator[ChatDelta | ChatReply]:
        async for piece in super().stream(request):
            yield piece
            if isinstance(piece, ChatDelta) and piece.tokens:
                raise EngineUnavailableError("the engine died in the middle of its answer; ask again")


def limited(tokens: int) -> Any:
    return replace(SPEC, limits=Limits(tokens=tokens))


async def test_a_call_whose_client_hangs_up_while_it_is_recorded_is_counted_and_recorded_once(
    tmp_path: Path,
) -> None:
    """It takes 5 tokens, of which the agent has seen 2: another call fits below 6."""
    async with open_at_hand(tmp_path, FakeEngine("a"), limited(6)) as house:
        attempt = await house.attempt()
        with house.database.begin():  # so the gateway waits to write
            async with house.client(attempt) as client:
                pieces = await client.chat.completions.create(model="m", messages=say("x"), stream=True)
                text = ""
                while text != "a0":
                    text += (await anext(pieces)).choices[0].delta.content or ""
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.3)
        while not house.calls(attempt):
            await asyncio.sleep(0.02)
        await house.ask(attempt, "another")
        assert [call_span.is_aborted(call) for call in house.calls(attempt)] == [False, False]


async def test_a_stream_that_breaks_off_leaves_a_call_and_counts_what_was_seen(tmp_path: Path) -> None:
    """Its agent, which was told an id, may reward it: it is there as soon as the agent knows."""
    async with open_at_hand(tmp_path, Frail("a"), limited(1)) as house:
        attempt = await house.attempt()
        async with house.client(attempt) as client:
            pieces = await client.chat.completions.create(model="m", messages=say("x"), stream=True)
            with pytest.raises(openai.APIError, match="in the middle"):
                async for piece in pieces:
                    call_id = piece.id
            assert len(house.calls(attempt)) == 1
            report = orjson.dumps({"value": 0.0, "call": call_id})
            assert (await house.post(report, attempt.key, "/al_ray/rewards"))[0] == 200
            [call, _] = house.calls(attempt)
            assert call_span.is_aborted(call) and call_span.usage(call).output_tokens == 1
            assert [choice.message["content"] for choice in call_span.choices(call)] == ["a"]
            with pytest.raises(openai.BadRequestError, match="used 1 tokens"):
                await house.ask(attempt)


async def chat(house: House, attempt: Attempt, headers: Any, **options: Any) -> Any:
    chunks = await house.chunks(attempt, "x", extra_headers=headers, **options)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    called = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    arguments = "".join(call.function.arguments or "" for call in called)
    return chunks[0].id, text, arguments, chunks[-1].choices[0].finish_reason


async def response(house: House, attempt: Attempt, headers: Any) -> Any:
    async with house.client(attempt) as client:
        stream = await client.responses.create(model="m", input="x", stream=True, extra_headers=headers)
        told = [event async for event in stream][-1].response
        return told.id, told.output_text, told.usage


async def message(house: House, attempt: Attempt, headers: Any) -> Any:
    asked: Any = {"model": "m", "max_tokens": 9, "messages": say("stop"), "extra_headers": headers}
    async with house.anthropic(attempt) as client, client.messages.stream(**asked) as stream:
        return await stream.get_final_message()


@pytest.mark.parametrize(
    "ask",
    [
        chat,
        lambda house, attempt, headers: chat(house, attempt, headers, tools=TOOLS),
        response,
        message,
    ],
)
async def test_a_streamed_call_that_is_repeated_gets_the_answer_that_was_recorded(
    tmp_path: Path, ask: Callable[[House, Attempt, Any], Awaitable[Any]]
) -> None:
    """As by a client whose gateway ended between the record of a short answer and its first byte."""
    engine = FakeEngine("a")
    async with open_at_hand(tmp_path, engine) as house, open_at_hand(tmp_path, engine) as other:
        attempt = await house.attempt()
        told = await ask(house, attempt, {})
        assert await ask(other, attempt, AGAIN) == told
        assert len(await engine.requests()) == len(house.calls(attempt)) == 1
        assert await ask(other, attempt, AGAIN) != told  # to whom it was told has asked anew
