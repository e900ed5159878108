"""The gateway as an agent meets it: the unmodified ``openai`` client, and clients that misbehave."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
import ray

from al_ray.actors.gateway.actor import Gateway
from al_ray.actors.runner.clock import absent
from al_ray.database.backends import close_log, sqlite_url
from al_ray.database.writer import Database
from al_ray.rollouts.trajectory import trajectory
from al_ray.traces import call_span, semconv
from al_ray.types import Attempt, AttemptStatus
from tests.support.houses.gateway import SPEC, TOOLS, House, beside, engine, say

# --- answers ---------------------------------------------------------------------------------------


async def test_the_openai_client_is_answered_and_the_call_is_in_the_store(served: House) -> None:
    attempt = await served.attempt()
    reply = await served.ask(attempt)
    assert reply.choices[0].message.content == "a0"
    assert (reply.choices[0].finish_reason, reply.model, reply.object) == ("stop", "toy", "chat.completion")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (3, 2, 5)
    (call,) = served.calls(attempt)
    assert call.id == reply.id
    assert call.attributes[semconv.PROMPT_IDS] == [1, 2, 3]
    assert call.attributes[semconv.CHOICES] == [
        {"ids": [7, 8], "logprobs": [-0.5, -1.5], "versions": [[3, 0, 2]]}
    ]
    assert call.attributes[semconv.INPUT_MESSAGES] == say("hello")
    assert call.attributes[semconv.OUTPUT_MESSAGES] == [{"role": "assistant", "content": "a0"}]


async def test_what_a_call_continues_is_in_the_store_and_is_of_its_own_attempt(
    served: House, engine_a: Any
) -> None:
    attempt = await served.attempt()
    await served.ask(attempt)
    (call,) = served.calls(attempt)
    assert call.attributes[semconv.LINEAGE] == "continued"
    assert call.attributes[semconv.LINEAGE_PARENT] == "earlier/0"
    assert call.attributes[semconv.LINEAGE_REUSED] == 2
    request = (await engine_a.requests.remote())[-1]
    assert request.attempt == f"{attempt.rollout_id}/{attempt.number}"


async def test_a_streamed_answer_adds_up_to_the_same(served: House) -> None:
    attempt = await served.attempt()
    chunks = await served.chunks(attempt)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a0"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    (call,) = served.calls(attempt)
    assert {chunk.id for chunk in chunks} == {call.id}
    assert len({chunk.created for chunk in chunks}) == 1
    assert call.attributes[semconv.OUTPUT_MESSAGES] == [{"role": "assistant", "content": "a0"}]


async def test_a_stream_tells_its_usage_where_that_is_asked_for(served: House) -> None:
    *_, last = await served.chunks(await served.attempt(), stream_options={"include_usage": True})
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 2)


async def test_tools_are_called_streaming_or_not(served: House) -> None:
    attempt = await served.attempt()
    reply = await served.ask(attempt, tools=TOOLS)
    (call,) = reply.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("add", '{"x": 1}')
    chunks = await served.chunks(attempt, tools=TOOLS, tool_choice="auto")
    first, *rest = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
    assert (first.function.name, first.id) == ("add", "call-1")
    assert "".join(piece.function.arguments for piece in [first, *rest]) == '{"x": 1}'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert (await served.ask(attempt, tools=TOOLS, tool_choice="none")).choices[0].message.content == "a0"
    assert all(span.attributes[semconv.TOOL_DEFINITIONS] == TOOLS for span in served.calls(attempt))


async def test_several_choices_are_one_call(served: House) -> None:
    attempt = await served.attempt()
    reply = await served.ask(attempt, n=2)
    assert [(c.index, c.message.content) for c in reply.choices] == [(0, "a0"), (1, "a1")]
    chunks = await served.chunks(attempt, n=2)
    for index in range(2):
        mine = [c.choices[0] for c in chunks if c.choices[0].index == index]
        assert "".join(c.delta.content or "" for c in mine) == f"a{index}"
        assert mine[-1].finish_reason == "stop"
    assert [len(span.attributes[semconv.CHOICES]) for span in served.calls(attempt)] == [2, 2]


async def test_the_model_is_listed_by_the_name_agents_are_given(served: House) -> None:
    async with served.client(await served.attempt()) as client:
        assert [model.id for model in (await client.models.list()).data] == ["toy"]


@pytest.mark.parametrize("stream", [False, True])
async def test_no_agent_sees_the_end_of_a_call_before_it_is_durable(house: House, stream: bool) -> None:
    """While nothing can be written, the answer is withheld."""
    attempt, actor = await house.attempt(), engine("a")
    await house.admit(actor)
    ask = house.chunks if stream else house.ask
    answer = asyncio.ensure_future(ask(attempt, "wait"))
    while not await actor.requests.remote():
        await asyncio.sleep(0.02)
    with house.database.begin():  # no other transaction writes beside it
        await actor.release.remote()
        await asyncio.wait({answer}, timeout=1.0)
        assert not answer.done()
    await answer
    assert len(house.calls(attempt)) == 1
    ray.kill(actor)


# --- sampling --------------------------------------------------------------------------------------


async def test_the_recipe_decides_the_sampling_and_what_the_agent_asked_for_is_recorded(
    served: House, engine_a: Any
) -> None:
    attempt = await served.attempt()
    await served.ask(attempt, temperature=0.1, top_p=0.5, max_tokens=1000, stop=["x"], seed=3)
    await served.ask(attempt, max_completion_tokens=5, stop="y")
    first, second = [request.sampling for request in (await engine_a.requests.remote())[-2:]]
    assert (first.temperature, first.top_p, first.max_tokens, first.stop) == (0.7, 0.9, 64, ("x",))
    assert (second.max_tokens, second.stop) == (5, ("y",)), "the agent may be briefer"
    span, _ = served.calls(attempt)
    assert span.attributes[semconv.REQUEST_TEMPERATURE] == 0.7
    assert span.attributes[semconv.REQUEST_TOP_P] == 0.9
    assert span.attributes[semconv.REQUEST_SEED] == first.seed
    assert span.attributes[semconv.ASKED_SAMPLING] == {
        "temperature": 0.1,
        "top_p": 0.5,
        "max_tokens": 1000,
        "stop": ["x"],
        "seed": 3,
    }


async def test_evaluation_is_sampled_as_the_recipe_says_for_evaluation(served: House, engine_a: Any) -> None:
    await served.ask(await served.attempt("eval"), temperature=1.0)
    sampling = (await engine_a.requests.remote())[-1].sampling
    assert (sampling.temperature, sampling.max_tokens) == (0.0, 32)


async def test_every_call_has_a_seed_of_its_own_and_the_same_in_every_run(
    served: House, engine_a: Any
) -> None:
    """Another gateway deals out the same seeds, in whatever order the calls come, and for other ids."""
    attempt = await served.attempt()
    async with beside(served, engine_a) as other:
        for house, contents in ((served, "xyx"), (other, "xxy")):
            for content in contents:
                await house.ask(attempt, content)
    seeds = [request.sampling.seed for request in (await engine_a.requests.remote())[-6:]]
    first, second = dict(zip("xyX", seeds[:3], strict=True)), dict(zip("xXy", seeds[3:], strict=True))
    assert first == second
    assert len(set(seeds)) == 3


async def test_ids_that_differ_in_every_run_do_not_change_the_seed(served: House, engine_a: Any) -> None:
    attempt = await served.attempt()
    async with beside(served, engine_a) as other:
        for house, call_id in ((served, "one"), (other, "two")):
            function = {"name": "add", "arguments": "{}"}
            calls = [{"id": call_id, "type": "function", "function": function}]
            messages = [
                *say("add"),
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": call_id, "content": "3"},
            ]
            await house.post(orjson.dumps({"messages": messages}), attempt.key)
    one, two = [request.sampling.seed for request in (await engine_a.requests.remote())[-2:]]
    assert one == two


# --- mistakes --------------------------------------------------------------------------------------

VALID = {"model": "m", "messages": say("hello")}


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"messages": "\\ud800"}', "not JSON"),
        (b"[]", "body"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages.0"),
        ({}, "messages"),
        (VALID | {"temperature": "hot"}, "temperature"),
        (VALID | {"temperature": -1}, "temperature"),
        (VALID | {"n": 0}, "n"),
        (VALID | {"n": 1000}, "n"),
        (VALID | {"max_tokens": 0}, "max_tokens"),
        (VALID | {"stop": 5}, "stop"),
        (VALID | {"tools": "add"}, "tools"),
        (VALID | {"tool_choice": "always"}, "tool_choice"),
        (VALID | {"tool_choice": {"type": "function"}}, "tool_choice"),
        (VALID | {"response_format": {"type": "yaml"}}, "response_format"),
        (VALID | {"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        (VALID | {"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
        (VALID | {"n": "2"}, "n"),
        (VALID | {"stream": 1}, "stream"),
        (VALID | {"messages": [{"role": "user", "content": 10**30}]}, "64 bits"),
        (b'{"messages":' + b"[" * 100_000, "not JSON"),
        (VALID | {"messages": say("bad")}, "nobody can render them"),
        (VALID | {"messages": say("bad"), "stream": True}, "nobody can render them"),
    ],
)
async def test_a_bad_body_is_a_400_that_names_the_field(served: House, body: Any, names: str) -> None:
    attempt = await served.attempt()
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer = await served.post(raw, attempt.key)
    assert status == 400, answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    assert names in answer["error"]["message"]
    assert served.calls(attempt) == []
    await served.ask(attempt)


async def test_null_is_as_good_as_nothing(served: House) -> None:
    nothing = dict.fromkeys(
        ("n", "stream", "stop", "temperature", "top_p", "max_tokens", "tools", "tool_choice", "seed"), None
    )
    status, answer = await served.post(orjson.dumps(VALID | nothing), (await served.attempt()).key)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "a0")


async def test_keys_that_are_unknown_missing_or_of_an_ended_attempt_are_refused(served: House) -> None:
    attempt = await served.attempt()
    await served.ask(attempt)
    await served.store.finish.remote(
        [(Attempt(attempt.rollout_id, attempt.number, "", AttemptStatus.TIMED_OUT), ())]
    )
    for key, says in ((attempt.key, "timed_out"), ("alr-made-up", "none of ours"), ("", "no API key")):
        status, answer = await served.post(orjson.dumps(VALID), key)
        assert status == 401
        assert (answer["error"]["type"], answer["error"]["code"]) == (
            "authentication_error",
            "invalid_api_key",
        )
        assert says in answer["error"]["message"]
    assert (await served.post(orjson.dumps(VALID), None))[0] == 401
    with pytest.raises(openai.AuthenticationError):
        await served.ask(attempt)
    assert len(served.calls(attempt)) == 1


async def test_a_call_whose_attempt_ends_meanwhile_is_refused_and_not_recorded(house: House) -> None:
    attempt, actor = await house.attempt(), engine("a")
    await house.admit(actor)
    answer = asyncio.ensure_future(house.ask(attempt, "wait"))
    while not await actor.requests.remote():
        await asyncio.sleep(0.02)
    await house.store.finish.remote(
        [(Attempt(attempt.rollout_id, attempt.number, "", AttemptStatus.FAILED), ())]
    )
    await actor.release.remote()
    with pytest.raises(openai.AuthenticationError, match="has ended"):
        await answer
    assert house.calls(attempt) == []
    ray.kill(actor)


async def test_what_is_not_served_or_too_large_is_told_in_the_same_shape(served: House) -> None:
    key = (await served.attempt()).key
    body = orjson.dumps(VALID)
    answers = {
        404: await served.post(body, key, path="/embeddings"),
        405: await served.post(b"", key, method="PUT"),
        413: await served.post(b" " * (SPEC.max_body_bytes + 1), key),
    }
    for expected, (status, answer) in answers.items():
        assert status == expected
        assert answer["error"]["type"] == "invalid_request_error"
        assert answer["error"]["message"]


async def test_a_prompt_that_is_too_long_has_openais_code(served: House) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 400 tokens") as caught:
        await served.ask(await served.attempt(), "too long")
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("content", ["too long", "bad"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_may_ask_again_does_not_ask_what_was_refused(
    served: House, engine_a: Any, content: str, stream: bool
) -> None:
    asked = len(await engine_a.requests.remote())
    attempt = await served.attempt()
    options: dict[str, Any] = {"messages": say(content), "stream": stream, "model": "any"}
    async with served.client(attempt) as openais, served.anthropic(attempt) as anthropics:
        with pytest.raises(openai.BadRequestError):
            await openais.with_options(max_retries=2).chat.completions.create(**options)
        with pytest.raises(anthropic.BadRequestError):
            await anthropics.with_options(max_retries=2).messages.create(**options, max_tokens=9)
    assert len(await engine_a.requests.remote()) == asked + 2


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engines_bug_is_a_500_and_the_engine_stays(served: House, stream: bool) -> None:
    attempt = await served.attempt()
    with pytest.raises(openai.InternalServerError) as caught:
        await (served.chunks if stream else served.ask)(attempt, "bug")
    assert caught.value.type == "server_error"
    assert served.calls(attempt) == []
    await served.ask(attempt)


# --- engines ---------------------------------------------------------------------------------------


async def test_requests_wait_while_no_engine_is_admitted(house: House, engine_a: Any) -> None:
    await house.admit()
    attempts = [await house.attempt() for _ in range(2)]
    answers = [
        asyncio.ensure_future(house.ask(attempts[0])),
        asyncio.ensure_future(house.chunks(attempts[1])),
    ]
    await asyncio.wait(answers, timeout=0.5)
    assert not any(answer.done() for answer in answers)
    assert 0.2 < await absent(house.url, 30.0) < 30.0
    await house.admit(engine_a)
    whole, chunks = await asyncio.gather(*answers)
    assert whole.choices[0].message.content == "a0"
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("order", ["die a", "unavailable a"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_dies_is_replaced_by_another_unseen_by_the_agent(
    house: House, mortal: tuple[Any, Any], order: str, stream: bool
) -> None:
    attempts = [await house.attempt() for _ in range(4)]
    ask = house.chunks if stream else house.ask
    await asyncio.gather(*(ask(attempt, order) for attempt in attempts))
    for attempt in attempts:
        (span,) = house.calls(attempt)
        assert span.attributes[semconv.OUTPUT_MESSAGES] == [{"role": "assistant", "content": "b0"}]


async def test_the_last_engines_death_makes_calls_wait_for_a_new_one(house: House, engine_a: Any) -> None:
    dying, attempt = engine("b"), await house.attempt()
    await house.admit(dying)
    answer = asyncio.ensure_future(house.ask(attempt, "die b"))
    await asyncio.wait({answer}, timeout=1.0)
    assert not answer.done()
    await house.admit(engine_a)
    assert (await answer).choices[0].message.content == "a0"


async def test_a_stream_whose_engine_dies_midway_ends_in_an_error(
    house: House, mortal: tuple[Any, Any]
) -> None:
    """Another engine would begin another answer. The call is kept as aborted, the next one is answered."""
    attempt = await house.attempt()
    async with house.client(attempt) as client:
        stream = await client.chat.completions.create(
            model="m", messages=say("die a after a piece"), stream=True
        )
        with pytest.raises(openai.APIError, match="the engine died in the middle of its answer; ask again"):
            _ = [chunk async for chunk in stream]
    assert (await house.ask(attempt)).choices[0].message.content == "b0"
    assert list(map(call_span.is_aborted, house.calls(attempt))) == [True, False]


async def test_rollouts_keep_their_engine_and_take_turns_among_the_idle(
    house: House, mortal: tuple[Any, Any]
) -> None:
    attempts = [await house.attempt() for _ in range(6)]
    answers = []
    for attempt in attempts:
        replies = [await house.ask(attempt) for _ in range(3)]
        (content,) = {reply.choices[0].message.content for reply in replies}
        answers.append(content)
    assert sorted(answers) == ["a0"] * 3 + ["b0"] * 3
    await house.admit(*reversed(mortal))
    assert (await house.ask(attempts[0])).choices[0].message.content == answers[0], "also when admitted again"


async def test_a_groups_rollouts_have_one_engine_until_that_has_many_more_calls_than_another(
    house: House, mortal: tuple[Any, Any]
) -> None:
    """And each stays where it was."""
    names = {(await house.ask(await house.attempt(group="g/0"))).choices[0].message.content for _ in range(4)}
    [home] = names
    a, b = mortal
    full, other = (a, b) if home == "a0" else (b, a)
    asked = len(await full.requests.remote())
    busy = [asyncio.ensure_future(house.ask(await house.attempt(group="g/0"), "wait")) for _ in range(9)]
    while len(await full.requests.remote()) < asked + 9:
        await asyncio.sleep(0.02)
    spilt = await house.attempt(group="g/0")
    for _ in range(2):
        assert (await house.ask(spilt)).choices[0].message.content == ("b0" if home == "a0" else "a0")
        await asyncio.gather(full.release.remote(), other.release.remote(), *busy)
    assert (await house.ask(await house.attempt(group="g/0"))).choices[0].message.content == home


async def test_a_new_rollout_goes_to_the_engine_with_the_fewest_calls(
    house: House, mortal: tuple[Any, Any]
) -> None:
    a, b = mortal
    busy = [asyncio.ensure_future(house.ask(await house.attempt(), "wait")) for _ in range(4)]
    while [len(await actor.requests.remote()) for actor in mortal] != [2, 2]:
        await asyncio.sleep(0.02)
    await b.release.remote()
    await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
    while sum(answer.done() for answer in busy) < 2:
        await asyncio.sleep(0.02)
    for _ in range(3):
        assert (await house.ask(await house.attempt())).choices[0].message.content == "b0"
    await a.release.remote()
    await asyncio.gather(*busy)


@pytest.mark.parametrize(("order", "stream"), [("wait", False), ("wait", True), ("wait after a piece", True)])
async def test_a_client_that_hangs_up_stops_its_engine_and_the_call_is_kept_as_aborted(
    house: House, mortal: tuple[Any, Any], order: str, stream: bool
) -> None:
    """With what the agent had seen, and without tokens: there is nothing to train on."""
    attempt = await house.attempt()
    ask = house.chunks if stream else house.ask
    answer = asyncio.ensure_future(ask(attempt, order))
    while not any([await actor.requests.remote() for actor in mortal]):
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    answer.cancel()
    async with asyncio.timeout(60):
        while not sum([await actor.cancelled.remote() for actor in mortal]):
            await asyncio.sleep(0.02)
        while not house.calls(attempt):
            await asyncio.sleep(0.02)
    [span] = house.calls(attempt)
    assert span.attributes[semconv.FINISH_REASONS] == ["aborted"]
    [seen] = span.attributes[semconv.OUTPUT_MESSAGES]
    assert seen["content"] in (("",) if order == "wait" else ("a", "b"))
    assert span.attributes[semconv.OUTPUT_TOKENS] == len(seen["content"])
    learnt = trajectory(house.rollout(attempt))
    assert (list(learnt.transitions), learnt.left_out) == ([], {"aborted": 1})
    await house.ask(attempt)
    assert len(house.calls(attempt)) == 2


async def test_a_hundred_calls_at_once_are_all_answered_and_all_recorded(
    house: House, mortal: tuple[Any, Any]
) -> None:
    attempt = await house.attempt()
    async with house.client(attempt) as client:
        replies = await asyncio.gather(
            *(client.chat.completions.create(model="m", messages=say(str(n))) for n in range(100))
        )
    spans = house.calls(attempt)
    assert {reply.id for reply in replies} == {span.id for span in spans}
    order = [span.sequence for span in spans]
    assert order == sorted(set(order)) and len(order) == 100


async def test_the_store_of_the_rollouts_that_are_repeated_is_only_read(tmp_path: Path) -> None:
    """Its run has ended, and left one whole file."""
    recorded, own = (sqlite_url(tmp_path / f"{name}.sqlite") for name in ("recorded", "own"))
    Database(recorded).close()
    close_log(recorded)
    database = Database(own)
    Gateway(replace(SPEC, recorded=recorded), own)._routes(database)
    assert [file.name for file in tmp_path.glob("recorded*")] == ["recorded.sqlite"]
    database.close()
