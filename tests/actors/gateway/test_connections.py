"""Clients that misbehave on the wire: the gateway tells them, and goes on answering the others."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from al_ray.actors import http
from al_ray.actors.gateway.dialects import DIALECTS
from tests.actors.gateway.dialects.test_bodies import LEAST, VALUES, dumped
from tests.support.houses.gateway import SPEC, House, beside

IDLE = 4000
MEMORY = 150 * 2**20
"""What thousands of idle connections may cost a gateway, at most."""


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough of them in this process; Ray's have as many as they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 500:
        pytest.skip(f"a process may have {hard} open files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, IDLE + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def connect(house: House, stack: AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(house.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    stack.callback(writer.close)
    return reader, writer


async def test_thousands_of_idle_connections_cost_little_and_keep_nobody_from_an_answer(
    served: House, descriptors: None
) -> None:
    attempt = await served.attempt()
    before = served.memory()
    async with AsyncExitStack() as stack:
        for _ in range(IDLE):
            await connect(served, stack)
        assert (await served.ask(attempt)).choices[0].message.content == "a0"
        assert served.memory() - before < MEMORY


async def test_more_connections_than_there_may_be_are_turned_away_with_the_reason(
    served: House, engine_a: Any
) -> None:
    attempt = await served.attempt()
    async with beside(served, engine_a, replace(SPEC, max_connections=4)) as house:
        async with AsyncExitStack() as stack:
            for _ in range(4):
                await connect(house, stack)
            await asyncio.sleep(0.2)
            reader, _ = await connect(house, stack)
            told = await reader.read()
            assert b" 503 " in told.splitlines()[0] and b"as many connections as it may" in told
        await asyncio.sleep(0.2)
        assert (await house.ask(attempt)).choices[0].message.content == "a0"


async def test_a_body_that_does_not_come_is_given_up(served: House, engine_a: Any) -> None:
    attempt = await served.attempt()
    async with beside(served, engine_a) as house, AsyncExitStack() as stack:
        await house.gateway.__ray_call__.remote(lambda _: setattr(http, "_BODY_SECONDS", 0.2))
        reader, writer = await connect(house, stack)
        head = f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nx-api-key: {attempt.key}\r\n"
        head += "Content-Length: 99\r\n\r\n"
        writer.write(head.encode() + b'{"inp')
        told = await asyncio.wait_for(reader.readline(), 60)
        assert b" 408 " in told


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/al_ray/rewards"])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_body_that_is_not_compressed_as_it_says_is_a_400(
    served: House, path: str, coding: str
) -> None:
    attempt = await served.attempt()
    headers = {"Content-Encoding": coding, "Authorization": f"Bearer {attempt.key}"}
    url = served.url.removesuffix("/v1") + path
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(url, data=b'{"value": 1}', headers=headers) as response:
                assert response.status == 400, await response.read()
                assert "the body cannot be read" in await response.text()


async def test_a_body_of_thousands_of_brackets_is_a_400(served: House) -> None:
    attempt = await served.attempt()
    for path in ("/chat/completions", "/al_ray/events"):
        body = b'{"x": 1234567890123456789, "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}"
        status, answer = await served.post(body, attempt.key, path)
        assert status == 400, answer


async def test_what_is_no_http_is_answered_as_such(served: House) -> None:
    async with AsyncExitStack() as stack:
        reader, writer = await connect(served, stack)
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 60)
    await served.ask(await served.attempt())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_no_body_makes_the_gateway_fail(served: House, data: Any) -> None:
    """Answered or refused: never a failure of ours, in any API."""
    dialect = data.draw(st.sampled_from(DIALECTS))
    name = data.draw(st.sampled_from(sorted({*dialect.body.model_fields} - {"stream"})))
    body = LEAST[dialect.path] | {name: data.draw(VALUES)}
    key = (await served.attempt()).key
    path = dialect.path.removeprefix("/v1")
    status, answer = await served.post(dumped(body), key, path)
    assert status in (200, 400), answer
    assert status == 200 or answer["error"]["message"]
