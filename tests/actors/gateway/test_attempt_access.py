"""Who may call the gateway, how much, with what sampling, and what else an agent may tell it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anthropic
import openai
import orjson
import pytest
from openai import AsyncOpenAI

from al_ray.actors.gateway.attempt_limits import Limits
from al_ray.actors.gateway.calls.sampling import PinnedSampling, SamplingRules
from al_ray.traces import semconv
from al_ray.types import JSON, SpanKind
from tests.support.houses.gateway import SPEC, House, beside, say


def tell(report: JSON) -> bytes:
    return orjson.dumps(report)


# --- keys ------------------------------------------------------------------------------------------


async def test_an_attempt_is_known_by_its_path_whatever_key_the_agent_sends(served: House) -> None:
    attempt = await served.attempt()
    root = served.url.removesuffix("/v1")
    url = f"{root}/attempt/{attempt.key}"
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-fixed") as client:
        reply = await client.chat.completions.create(model="m", messages=say("hello"))
        assert [model.id for model in (await client.models.list()).data] == ["toy"]
    async with anthropic.AsyncAnthropic(base_url=url, api_key="sk-fixed") as other:
        message = await other.messages.create(model="m", max_tokens=9, messages=say("hello"))
    assert [span.id for span in served.calls(attempt)] == [reply.id, message.id]


async def test_a_key_of_the_clients_own_beside_the_attempts_does_not_count(served: House) -> None:
    """A command-line agent may be logged in elsewhere, in either header."""
    attempt = await served.attempt()
    body = orjson.dumps({"max_tokens": 9, "messages": say("hello")})
    for bearer, other in (("sk-mine", attempt.key), (attempt.key, "sk-mine")):
        headers = {"Authorization": f"Bearer {bearer}", "x-api-key": other}
        async with aiohttp.ClientSession(headers=headers) as session:
            answer = await session.post(f"{served.url}/messages", data=body)
        assert answer.status == 200
    async with aiohttp.ClientSession(
        headers={"Authorization": "Bearer sk-1", "x-api-key": "sk-2"}
    ) as session:
        answer = await session.post(f"{served.url}/messages", data=body)
    assert answer.status == 401
    assert len(served.calls(attempt)) == 2


async def test_clients_that_add_no_version_to_the_url_or_a_second_one_are_answered(served: House) -> None:
    """With the attempt in the path, and without. Anthropic's client adds one to whatever URL it is given."""
    attempt = await served.attempt()
    root = served.url.removesuffix("/v1")
    headers = {"x-api-key": attempt.key}
    told = orjson.dumps({"max_tokens": 9, "messages": say("hello")})
    async with aiohttp.ClientSession(headers=headers) as session:
        for base in (
            root,
            f"{root}/attempt/{attempt.key}",
            f"{root}/v1/v1",
            f"{root}/attempt/{attempt.key}/v1/v1",
        ):
            for path in ("/messages", "/messages/count_tokens", "/chat/completions"):
                answer = await session.post(base + path, data=told)
                assert (path, answer.status) == (path, 200)
            assert (await session.get(f"{base}/models")).status == 200
        failed = await session.post(f"{root}/messages", data=b"{")
        assert (failed.status, (await failed.json())["type"]) == (400, "error")


async def test_a_model_is_told_of_as_either_api_has_it(served: House, engine_a: Any) -> None:
    rules = replace(SPEC.rules, model="org/toy")
    async with beside(served, engine_a, replace(SPEC, rules=rules)) as gateway:
        attempt = await gateway.attempt()
        async with gateway.client(attempt) as client:
            one = await client.models.retrieve("org/toy")
            with pytest.raises(openai.NotFoundError, match="there is no model 'gpt', but org/toy"):
                await client.models.retrieve("gpt")
        async with gateway.anthropic(attempt) as other:
            [listed] = (await other.models.list()).data
            told = await other.models.retrieve("org/toy")
    assert (one.id, one.object, one.owned_by) == ("org/toy", "model", "al_ray")
    assert (listed.id, listed.type, listed.display_name) == ("org/toy", "model", "org/toy")
    assert listed.created_at.year == 1970 and told == listed


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_that_was_good_a_moment_ago_is_refused_once_its_attempt_has_ended(
    served: House, stream: bool
) -> None:
    """In every API's own shape; a stream shows nothing first."""
    attempt = await served.attempt()
    await served.ask(attempt)
    await served.end(attempt)
    ask = served.chunks if stream else served.ask
    with pytest.raises(openai.AuthenticationError, match="timed_out"):
        await ask(attempt)
    async with served.client(attempt) as client:
        with pytest.raises(openai.AuthenticationError, match="timed_out"):
            await client.responses.create(model="m", input="x")
        with pytest.raises(openai.AuthenticationError, match="timed_out"):
            await client.models.list()
    status, answer = await served.post(tell({"value": 1}), attempt.key, path="/al_ray/rewards")
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert len(served.calls(attempt)) == 1


async def test_keys_that_no_database_takes_are_refused_alone(served: House) -> None:
    """Many keys are looked up in one question: those of others are answered."""
    attempts = [await served.attempt() for _ in range(8)]
    address = urlsplit(served.url)

    async def with_key(head: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"GET " + head + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer.splitlines()[0]

    heads = [
        b"/v1/models HTTP/1.1\r\nAuthorization: Bearer \xff",
        b"/v1/models HTTP/1.1\r\nx-api-key: \xc3\xa9",
    ]
    heads += [b"/attempt/a%00b/v1/models HTTP/1.1", b"/attempt/%ff/v1/models HTTP/1.1"]
    heads += [b"/attempt/" + b"k" * 5000 + b"/v1/models HTTP/1.1"]
    refused = asyncio.gather(*(with_key(head) for _ in range(20) for head in heads))
    answers = await asyncio.gather(*(served.ask(attempt) for attempt in attempts))
    assert [answer.choices[0].message.content for answer in answers] == ["a0"] * len(attempts)
    assert {line.split()[1] for line in await refused} == {b"401"}


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
async def test_an_agents_name_may_have_letters_that_ascii_has_not(served: House, coding: str) -> None:
    """As UTF-8, or as Python's own client sends it."""
    attempt, address = await served.attempt(), urlsplit(served.url)
    headers = {"Authorization": f"Bearer {attempt.key}", "x-al-ray-agent": "Prüfer".encode(coding)}

    def status() -> int:
        connection = HTTPConnection(address.netloc, timeout=60)
        connection.request("POST", f"{address.path}/chat/completions", tell({"messages": say("x")}), headers)
        return connection.getresponse().status

    assert await asyncio.to_thread(status) == 200
    [span] = served.calls(attempt)
    assert span.attributes[semconv.AGENT_NAME] == "Prüfer"


# --- limits ----------------------------------------------------------------------------------------


async def test_calls_beyond_the_limit_are_refused_at_every_gateway(served: House, engine_a: Any) -> None:
    """Also at one that was started anew. The attempt keeps one event that says so."""
    limited = replace(SPEC, limits=Limits(calls=2))
    attempt, other = await served.attempt(), await served.attempt()
    for _ in range(2):
        async with beside(served, engine_a, limited) as gateway:
            while len([s for s in served.calls(attempt) if s.kind is SpanKind.CALL]) < 2:
                await gateway.ask(attempt)
            for _ in range(2):
                with pytest.raises(openai.BadRequestError, match="has used 2 calls of the 2 that"):
                    await gateway.ask(attempt)
            if not served.calls(other):
                await gateway.ask(other)
    events = [span for span in served.calls(attempt) if span.kind is SpanKind.EVENT]
    assert [event.attributes for event in events] == [{semconv.LIMIT: "calls", semconv.LIMIT_VALUE: 2}]


async def test_calls_at_once_do_not_slip_past_the_limit(served: House, engine_a: Any) -> None:
    attempt = await served.attempt()
    async with beside(served, engine_a, replace(SPEC, limits=Limits(calls=3))) as gateway:
        answers = await asyncio.gather(*(gateway.ask(attempt) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(answer, openai.BadRequestError) for answer in answers) == 5


async def test_the_tokens_of_a_stream_that_its_agent_leaves_count_too(served: House, engine_a: Any) -> None:
    attempt = await served.attempt()
    async with beside(served, engine_a, replace(SPEC, limits=Limits(tokens=1))) as gateway:
        async with gateway.client(attempt) as client:
            said = say("wait after a piece")
            stream = await client.chat.completions.create(model="m", messages=said, stream=True)
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
            await stream.close()
            while not served.calls(attempt):
                await asyncio.sleep(0.05)
        with pytest.raises(openai.BadRequestError, match="tokens of the 1 that"):
            await gateway.ask(attempt)


async def test_tokens_beyond_the_limit_are_refused_in_the_apis_own_shape(
    served: House, engine_a: Any
) -> None:
    """A call is three tokens of prompt and two of response."""
    attempt = await served.attempt()
    async with beside(served, engine_a, replace(SPEC, limits=Limits(tokens=6))) as gateway:
        for _ in range(2):
            await gateway.chunks(attempt)
        async with gateway.anthropic(attempt) as client:
            with pytest.raises(anthropic.BadRequestError, match="has used 10 tokens of the 6 that"):
                await client.messages.create(model="m", max_tokens=9, messages=say("x"))


# --- sampling --------------------------------------------------------------------------------------

BY_AGENT = SamplingRules(
    PinnedSampling(temperature=0.7, top_p=None, max_tokens=64),
    [
        ("judge*", PinnedSampling(temperature=0.0, top_p=1.0, max_tokens=8)),
        ("*", PinnedSampling(temperature=None, top_p=None, max_tokens=64)),
    ],
)


@pytest.mark.parametrize(
    ("agent", "temperature", "top_p", "max_tokens"),
    [(None, 0.3, 0.4, 64), ("judge-2", 0.0, 1.0, 8), ("writer", 0.3, 0.4, 64)],
)
async def test_sampling_is_pinned_by_the_agents_name_or_left_to_the_agent(
    served: House, engine_a: Any, agent: str | None, temperature: float, top_p: float, max_tokens: int
) -> None:
    rules = replace(SPEC.rules, sampling={"train": BY_AGENT, "eval": BY_AGENT})
    headers = {"x-al-ray-agent": agent} if agent else {}
    attempt = await served.attempt()
    async with beside(served, engine_a, replace(SPEC, rules=rules)) as gateway:
        await gateway.ask(attempt, temperature=0.3, top_p=0.4, extra_headers=headers)
    sampling = (await engine_a.requests.remote())[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (temperature, top_p, max_tokens)
    [span] = served.calls(attempt)
    assert span.attributes.get(semconv.AGENT_NAME) == agent
    assert span.attributes[semconv.ASKED_SAMPLING] == {"temperature": 0.3, "top_p": 0.4}


def test_a_field_that_nobody_decides_is_as_openai_has_it() -> None:
    from al_ray.actors.gateway.dialects.core import AskedSampling

    sampling = PinnedSampling(None, None, 64).sampling(AskedSampling(), seed=1)
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (1.0, 1.0, 64)


# --- reports ---------------------------------------------------------------------------------------


async def test_an_agent_in_any_language_gives_rewards_and_events(served: House) -> None:
    attempt = await served.attempt()
    call = await served.ask(attempt)
    for path, report in (
        ("rewards", {"value": 0.5, "call": call.id}),
        ("rewards", {"dimensions": {"reward": 1, "brevity": -0.25}, "id": "final"}),
        ("rewards", {"dimensions": {"reward": 1, "brevity": -0.25}, "id": "final"}),
        ("events", {"name": "looked up", "attributes": {"pages": [1, 2]}}),
    ):
        status, answer = await served.post(tell(report), attempt.key, path=f"/al_ray/{path}")
        assert status == 200, answer
    _, first, second, event = served.calls(attempt)
    assert (first.kind, first.attributes) == (
        SpanKind.REWARD,
        {
            semconv.REWARD: 0.5,
            semconv.REWARD_DIMENSIONS: {"reward": 0.5},
            semconv.REWARD_CALL: call.id,
        },
    )
    assert second.attributes == {
        semconv.REWARD: 1.0,
        semconv.REWARD_DIMENSIONS: {"reward": 1.0, "brevity": -0.25},
    }
    assert (event.kind, event.name, event.attributes) == (SpanKind.EVENT, "looked up", {"pages": [1, 2]})


@pytest.mark.parametrize(
    ("path", "report", "names"),
    [
        ("rewards", b"{}", "value"),
        ("rewards", b'{"value": "1"}', "value"),
        ("rewards", b'{"value": NaN}', "value"),
        ("rewards", b'{"value": 1e999}', "value"),
        ("rewards", b'{"value": 1e308}', "value"),
        ("rewards", b'{"value": -1e308}', "value"),
        ("rewards", b'{"value": 1, "dimensions": {"style": 1e308}}', "dimensions.style"),
        ("rewards", b'{"dimensions": {"brevity": 1}}', "value"),
        ("rewards", b'{"value": 1, "call": "made-up"}', "call: this attempt has made no call"),
        ("events", b'{"attributes": {}}', "name"),
        ("events", b'{"name": "a\\u0000b"}', "name"),
        ("rewards", b'{"value": 1, "id": "a\\u0000b"}', "id"),
        ("rewards", b'{"value": 1, "call": "a\\u0000b"}', "call"),
        ("events", b'{"name": "x", "attributes": {"x": 1' + b"0" * 30 + b"}}", "64 bits"),
    ],
)
async def test_a_bad_report_is_a_400_that_names_the_field(
    served: House, path: str, report: bytes, names: str
) -> None:
    attempt = await served.attempt()
    status, answer = await served.post(report, attempt.key, path=f"/al_ray/{path}")
    assert status == 400
    assert names in answer["error"]["message"]
    assert served.calls(attempt) == []


async def test_what_an_event_says_in_names_of_ours_is_not_kept(served: House) -> None:
    attempt = await served.attempt()
    report = {"name": "x", "attributes": {"al_ray.trace_id": "zz", "al_ray.events": [1], "pages": 1}}
    await served.post(tell(report), attempt.key, path="/al_ray/events")
    [event] = served.calls(attempt)
    assert event.attributes == {"pages": 1}


async def test_a_reward_for_another_attempts_call_is_refused(served: House) -> None:
    attempt, stranger = await served.attempt(), await served.attempt()
    call = await served.ask(attempt)
    status, _ = await served.post(tell({"value": 1, "call": call.id}), stranger.key, path="/al_ray/rewards")
    assert status == 400


async def test_an_id_of_an_attempts_own_is_no_other_attempts(served: House) -> None:
    for attempt in (await served.attempt(), await served.attempt()):
        await served.post(tell({"value": 1, "id": "final"}), attempt.key, path="/al_ray/rewards")
        assert len(served.calls(attempt)) == 1
