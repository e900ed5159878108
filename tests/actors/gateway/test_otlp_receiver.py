"""Traces at the real gateway with the real store, from the real OpenTelemetry exporter and from no good."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import ray
import sqlalchemy as sa
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from al_ray import tracing
from al_ray.actors.gateway import otlp_receiver
from al_ray.actors.gateway.actor import GATEWAY_OPTIONS, Gateway
from al_ray.actors.store.actor import STORE_OPTIONS, Store
from al_ray.database.backends import sqlite_url
from al_ray.database.writer import Database
from al_ray.traces import otlp_in, semconv
from al_ray.traces.nesting import Nesting
from al_ray.types import Attempt, AttemptStatus, Endpoint, RolloutRequest, Span, SpanKind, Task
from tests.support.houses.at_hand import open_at_hand
from tests.support.houses.gateway import SPEC
from tests.support.models.fake_engine import FakeEngine

COLLECTOR = "collector-key"
START = 1_790_000_000_000_000_000


@dataclass(frozen=True)
class House:
    store: Any
    url: str
    database: Database

    async def attempt(self, name: str) -> Attempt:
        await self.store.enqueue.remote([RolloutRequest(name, "b", "g", Task("t", {}))])
        (claim,) = await self.store.claim.remote("w", f"claim of {name}", 1, 0.0)
        return claim.attempt

    def spans(self, attempt: Attempt) -> list[Span]:
        rollout = self.database.rollout(attempt.rollout_id)
        assert rollout is not None
        return list(rollout.spans)

    def names(self, attempt: Attempt) -> list[str]:
        return [span.name for span in self.spans(attempt)]

    async def post(
        self, body: bytes, key: str | None = None, *, json_: bool = False, **headers: str
    ) -> tuple[int, Any]:
        """Status, and the message that the status goes with."""
        headers = {"Content-Type": "application/json" if json_ else "application/x-protobuf"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url + "/traces", data=body, headers=headers) as response,
        ):
            answer = ExportTraceServiceResponse() if response.status == 200 else Status()
            raw = await response.read()
            if response.content_type == "application/json":
                json_format.Parse(raw, answer)
            else:
                answer.ParseFromString(raw)
            return response.status, answer


@pytest.fixture(scope="module")
def house(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    url = sqlite_url(tmp_path_factory.mktemp("traces") / "store.sqlite")
    store = ray.remote(Store).options(**STORE_OPTIONS).remote(url)
    spec = replace(SPEC, collector_key=COLLECTOR)
    ray.get(store.ping.remote())
    gateway = ray.remote(Gateway).options(**GATEWAY_OPTIONS).remote(spec, url)
    engine = ray.remote(FakeEngine).options(num_cpus=0, max_concurrency=100).remote("a")
    base_url = ray.get(gateway.start.remote())
    ray.get(gateway.admit.remote([engine]))
    database = Database(url)
    yield House(store, base_url, database)
    database.close()
    for actor in (gateway, store, engine):
        ray.kill(actor)


def export(
    *names: str, resource: dict[str, Any] | None = None, trace: bytes = b"t" * 16, first_id: int = 1
) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for key, value in (resource or {}).items():
        pair = request.resource_spans[0].resource.attributes.add(key=key)
        if isinstance(value, bool):
            pair.value.bool_value = value
        elif isinstance(value, int):
            pair.value.int_value = value
        else:
            pair.value.string_value = value
    for number, name in enumerate(names, first_id):
        scope.spans.add(
            name=name,
            trace_id=trace,
            span_id=number.to_bytes(8, "big"),
            start_time_unix_nano=START,
            end_time_unix_nano=START + 10**9,
        )
    return request


def named(attempt: Attempt) -> dict[str, Any]:
    return {semconv.ROLLOUT_ID: attempt.rollout_id, semconv.ATTEMPT: attempt.number}


# --- whose spans they are --------------------------------------------------------------------------


async def test_an_unmodified_sdk_and_the_embedded_tracer_land_with_their_attempt(house: House) -> None:
    """Nested, and around the call that was made within."""
    attempt = await house.attempt("sdk")
    exporter = OTLPSpanExporter(
        f"{house.url}/traces", headers={"authorization": f"Bearer {attempt.key}"}, compression=None
    )
    provider = TracerProvider(resource=Resource.create({"service.name": "my-agent", **named(attempt)}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")

    def work() -> str:
        with tracer.start_as_current_span("invoke_agent writer") as outer:
            outer.set_attribute("gen_ai.agent.name", "writer")
            context = outer.get_span_context()
            with tracer.start_as_current_span("inner"):
                pass
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    traceparent = await asyncio.to_thread(work)
    async with tracing.attempt(Endpoint(house.url, attempt.key, "toy")):
        tracing.reward({"reward": 1.0, "style": 0.5})
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": f"Bearer {attempt.key}", "traceparent": traceparent}
    async with aiohttp.ClientSession(headers=headers) as session:
        await session.post(house.url + "/chat/completions", json=body)
    nesting = Nesting(house.spans(attempt))
    inner, outer, reward, call = nesting.spans
    assert [span.name for span in (inner, outer, reward)] == ["inner", "invoke_agent writer", "reward"]
    assert inner.attributes[semconv.PARENT_ID] == outer.id == call.attributes[semconv.PARENT_ID]
    assert outer.attributes[semconv.SERVICE_NAME] == "my-agent"
    assert (reward.kind, reward.attributes[semconv.REWARD]) == (SpanKind.REWARD, 1.0)
    assert reward.attributes[semconv.REWARD_DIMENSIONS] == {"reward": 1.0, "style": 0.5}
    assert (call.kind, nesting.agent(call)) == (SpanKind.CALL, "writer")


async def test_a_key_counts_in_either_header_in_both_encodings_and_repeating_changes_nothing(
    house: House,
) -> None:
    attempt = await house.attempt("key")
    request = export("a", "b")
    as_json = json_format.MessageToDict(request)
    for number, span in enumerate(as_json["resourceSpans"][0]["scopeSpans"][0]["spans"], 1):
        span |= {"traceId": (b"t" * 16).hex(), "spanId": f"{number:016x}"}
    raw = request.SerializeToString()
    for status, answer in (
        await house.post(raw, attempt.key),
        await house.post(raw, x_api_key=attempt.key),
        await house.post(gzip.compress(raw), attempt.key, Content_Encoding="gzip"),
        await house.post(json.dumps(as_json).encode(), attempt.key, json_=True),
    ):
        assert status == 200
        assert not answer.HasField("partial_success")
    assert house.names(attempt) == ["a", "b"]


async def test_a_key_in_the_path_counts_whatever_the_headers_say(house: House) -> None:
    attempt = await house.attempt("path")
    behind = replace(house, url=house.url.removesuffix("/v1") + f"/attempt/{attempt.key}/v1")
    assert (await behind.post(export("a").SerializeToString(), "sk-fixed"))[0] == 200
    assert house.names(attempt) == ["a"]


async def test_a_span_that_is_twice_in_one_export_is_one(house: House) -> None:
    attempt = await house.attempt("twice")
    request = export("a")
    request.MergeFrom(export("a again"))
    assert (await house.post(request.SerializeToString(), attempt.key))[0] == 200
    assert house.names(attempt) == ["a"]


async def test_no_attempt_writes_into_anothers(house: House) -> None:
    mine, other = await house.attempt("mine"), await house.attempt("other")
    status, answer = await house.post(
        export("forged", "too", resource=named(other)).SerializeToString(), mine.key
    )
    assert (status, answer.partial_success.rejected_spans) == (200, 2)
    assert "another attempt" in answer.partial_success.error_message
    # The same ids from two attempts are two spans, and neither takes the other's place.
    for attempt in (other, mine):
        await house.post(export("same ids").SerializeToString(), attempt.key)
    assert (house.names(mine), house.names(other)) == (["same ids"], ["same ids"])
    assert house.spans(mine)[0].id != house.spans(other)[0].id


async def test_a_collector_sends_many_attempts_by_their_keys(house: House) -> None:
    """It has no key of its own: each resource has its attempt's, and it is not stored."""
    first, second = await house.attempt("first"), await house.attempt("second")
    together = export("a", resource={semconv.KEY: first.key})
    together.MergeFrom(export("b", resource={semconv.KEY: second.key, **named(second)}))
    together.MergeFrom(export("c", resource={semconv.KEY: "alr-made-up"}))
    together.MergeFrom(export("d"))
    status, answer = await house.post(together.SerializeToString())
    assert (status, answer.partial_success.rejected_spans) == (200, 2)
    assert "none of ours" in answer.partial_success.error_message
    assert "no API key" in answer.partial_success.error_message
    assert (house.names(first), house.names(second)) == (["a"], ["b"])
    assert first.key not in str(house.spans(first))


async def test_a_collector_with_the_runs_key_names_the_attempt_or_sends_spans_of_its_traces(
    house: House,
) -> None:
    first, second = await house.attempt("c1"), await house.attempt("c2")
    traces = ((first, b"1" * 16), (second, b"2" * 16))
    # A tool server knows nothing of attempts, but its spans are of their traces; they come first.
    request = export("tool", trace=b"1" * 16, first_id=9)
    for attempt, trace in traces:
        request.MergeFrom(export("agent", "child", resource=named(attempt), trace=trace))
    request.MergeFrom(export("stranger", trace=b"3" * 16))
    request.MergeFrom(export("nobody's", resource={semconv.ROLLOUT_ID: "c1", semconv.ATTEMPT: 7}))
    request.MergeFrom(export("half", resource={semconv.ROLLOUT_ID: "c1"}))
    status, answer = await house.post(request.SerializeToString(), COLLECTOR)
    assert (status, answer.partial_success.rejected_spans) == (200, 3)
    assert "belongs to no attempt" in answer.partial_success.error_message
    assert house.names(first) == ["agent", "child", "tool"]
    late = export("late tool", trace=b"2" * 16, first_id=9)
    assert (await house.post(late.SerializeToString(), COLLECTOR))[0] == 200
    assert house.names(second) == ["agent", "child", "late tool"]


async def test_a_trace_that_two_attempts_claim_is_neithers_for_a_collector(house: House) -> None:
    """So that nobody gets a span of another by naming its trace."""
    victim, thief = await house.attempt("victim"), await house.attempt("thief")
    for attempt in (victim, thief):
        await house.post(export("own").SerializeToString(), attempt.key)
    secret = export("secret", first_id=9)
    status, answer = await house.post(secret.SerializeToString(), COLLECTOR)
    assert (status, answer.partial_success.rejected_spans) == (200, 1)
    assert house.names(victim) == house.names(thief) == ["own"]


async def test_keys_that_are_missing_wrong_or_of_an_ended_attempt_are_refused(house: House) -> None:
    attempt = await house.attempt("ended")
    raw = export("late").SerializeToString()
    ended = Attempt(attempt.rollout_id, attempt.number, "", AttemptStatus.FAILED)
    await house.store.finish.remote([(ended, ())])
    for key, says in ((attempt.key, "failed"), ("alr-made-up", "none of ours"), (None, "no API key")):
        status, answer = await house.post(raw, key)
        assert status == 401
        assert says in answer.message
    status, answer = await house.post(export("late", resource=named(attempt)).SerializeToString(), COLLECTOR)
    assert (status, answer.partial_success.rejected_spans) == (200, 1)
    assert "has ended" in answer.partial_success.error_message
    assert house.names(attempt) == []


@pytest.mark.parametrize("sender", ["nobody", "another attempt"])
async def test_bodies_that_never_end_keep_nobody_elses_waiting(house: House, sender: str) -> None:
    other, attempt = await house.attempt("slow"), await house.attempt("quick")
    address = urlsplit(house.url)
    key = "" if sender == "nobody" else f"x-api-key: {other.key}\r\n"
    head = f"POST /v1/traces HTTP/1.1\r\nHost: x\r\n{key}Content-Type: application/x-protobuf\r\n"
    async with AsyncExitStack() as stack:
        for _ in range(8):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            stack.callback(writer.close)
            writer.write(head.encode() + b"Content-Length: 99\r\n\r\nx")
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        assert (await house.post(export("in time").SerializeToString(), attempt.key))[0] == 200
        assert time.monotonic() - begun < otlp_receiver._BODY_SECONDS / 3
    assert house.names(attempt) == ["in time"]


async def test_our_own_export_is_not_taken_back_from_a_collector(house: House) -> None:
    attempt = await house.attempt("loop")
    again = export("x", resource={semconv.EXPORTED: True, **named(attempt)})
    assert (await house.post(again.SerializeToString(), COLLECTOR))[0] == 200
    assert house.names(attempt) == []


# --- bad input -------------------------------------------------------------------------------------


async def test_bad_bodies_are_answered_with_a_status_that_says_what_is_wrong(house: House) -> None:
    attempt = await house.attempt("bad")
    raw = export("a").SerializeToString()
    bomb = gzip.compress(bytes(2 * otlp_receiver.MAX_PLAIN_BYTES))
    cases: list[tuple[int, str, bytes, dict[str, str]]] = [
        (400, "protobuf", b"\xff\xff", {}),
        (400, "decompressed", b"no gzip", {"Content_Encoding": "gzip"}),
        (400, "", gzip.compress(raw)[:-12], {"Content_Encoding": "gzip"}),
        (400, "resources", b"\x0a\x00" * (otlp_in.MAX_PARTS + 1), {}),
        (413, "bytes", bytes(otlp_receiver.MAX_BODY_BYTES + 1), {}),
        (413, "bytes", bomb, {"Content_Encoding": "gzip"}),
        (
            413,
            "bytes",
            zlib.compress(bytes(2 * otlp_receiver.MAX_PLAIN_BYTES)),
            {"Content_Encoding": "deflate"},
        ),
        (415, "snappy", raw, {"Content_Encoding": "snappy"}),
    ]
    for expected, says, body, headers in cases:
        status, answer = await house.post(body, attempt.key, **headers)
        assert (status, says in answer.message) == (expected, True), answer
    for body in (
        b"{",
        b"[]",
        b'{"resourceSpans": 3}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}',
    ):
        status, answer = await house.post(body, attempt.key, json_=True)
        assert (status, "JSON" in answer.message) == (400, True)
    status, answer = await house.post(raw, attempt.key, Content_Type="text/plain")
    assert (status, "text/plain" in answer.message) == (415, True)
    assert house.names(attempt) == []
    assert (await house.post(raw, attempt.key))[0] == 200


async def test_good_spans_are_kept_and_bad_ones_counted_with_the_reason(house: House) -> None:
    attempt = await house.attempt("partial")
    request = export("good", "no id", "bad reward")
    spans = request.resource_spans[0].scope_spans[0].spans
    spans[1].span_id = b""
    spans[2].attributes.add(key="agentlightning.reward.0.value").value.double_value = float("nan")
    status, answer = await house.post(request.SerializeToString(), attempt.key)
    assert (status, answer.partial_success.rejected_spans) == (200, 2)
    assert "valid ids" in answer.partial_success.error_message
    assert "finite number" in answer.partial_success.error_message
    assert house.names(attempt) == ["good"]


async def test_an_attempt_that_floods_is_stopped_and_others_go_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    flood, other = await house.attempt("flood"), await house.attempt("calm")
    rejected = 0
    for number in range(12):
        request = export(*"abc", trace=bytes([number + 1]) * 16)
        for span in request.resource_spans[0].scope_spans[0].spans:
            span.attributes.add(key="k").value.string_value = "x" * (2 * 2**20)
        status, answer = await house.post(request.SerializeToString(), flood.key)
        assert status == 200
        rejected += answer.partial_success.rejected_spans
    assert rejected >= 36 - otlp_receiver.MAX_ATTEMPT_BYTES // (2 * 2**20)
    assert len(house.names(flood)) == 36 - rejected
    assert (await house.post(export("a").SerializeToString(), other.key))[0] == 200


async def test_a_span_that_says_nothing_counts_for_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two million of them are as few bytes on the wire as an attempt may send."""
    monkeypatch.setattr(otlp_receiver, "MAX_ATTEMPT_BYTES", 3 * otlp_receiver.LEAST_SPAN_BYTES)
    async with open_at_hand(tmp_path, FakeEngine("a")) as at_hand:
        attempt = await at_hand.attempt()
        house = House(None, at_hand.url, at_hand.database)
        status, answer = await house.post(export(*"abcde").SerializeToString(), attempt.key)
        assert (status, answer.partial_success.rejected_spans) == (200, 2)
        assert house.names(attempt) == ["a", "b", "c"]


@pytest.mark.parametrize("table", ["attempts", "spans"])
async def test_while_the_database_fails_an_export_is_to_be_sent_again(house: House, table: str) -> None:
    attempt = await house.attempt(f"without {table}")
    raw = export("a").SerializeToString()
    with house.database.begin() as connection:
        connection.execute(sa.text(f"alter table {table} rename to away"))
    status, answer = await house.post(raw, attempt.key)
    with house.database.begin() as connection:
        connection.execute(sa.text(f"alter table away rename to {table}"))
    assert (status, "again" in answer.message) == (503, True)
    assert (await house.post(raw, attempt.key))[0] == 200
    assert house.names(attempt) == ["a"]
