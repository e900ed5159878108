"""Our spans at somebody else's collector, which may be slow, broken, or gone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from al_ray.actors.store.span_recorder import SpanRecorder
from al_ray.actors.store.trace_exporter import ExportTarget, TraceExporter, export_target
from al_ray.database.writer import Database
from al_ray.errors import AttemptEndedError
from al_ray.traces import otlp_in, semconv
from al_ray.traces.otlp_in import Owner
from al_ray.traces.otlp_out import wire_span
from al_ray.types import JSON, Attempt, AttemptStatus, RolloutRequest, Span, SpanKind, Task
from tests.support.houses.beside_the_store import finished

CALL = Span(
    "chatcmpl-1",
    "r",
    1,
    SpanKind.CALL,
    "chat toy",
    1_790_000_000.0,
    1_790_000_001.0,
    {
        semconv.OPERATION: "chat",
        semconv.INPUT_MESSAGES: [{"role": "user", "content": "1+2?"}],
        semconv.OUTPUT_MESSAGES: [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", "function": {"name": "add", "arguments": "{}"}}],
            }
        ],
        semconv.PROMPT_IDS: [1, 2],
        semconv.CHOICES: [{"ids": [3], "logprobs": [-0.5], "versions": [[7, 0, 1]]}],
        semconv.REQUEST_SEED: None,
    },
)
REWARD = Span("1", "r", 1, SpanKind.REWARD, "reward", 1_790_000_002.0, 1_790_000_002.0, {semconv.REWARD: 0.5})
ENDED = Attempt("r", 1, "alr-secret", AttemptStatus.FAILED, "w", 1_790_000_000.0, 1_790_000_003.0, "broke")


class Backend:
    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: dict[str, str] = {}
        self.statuses: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        await self.gate.wait()
        status = self.statuses.pop(0) if self.statuses else 200
        self.headers = dict(request.headers)
        if status == 200:
            self.requests.append(otlp_in.parse(await request.read(), is_json=False))
        return web.Response(status=status)

    @property
    def spans(self) -> dict[str, Any]:
        scopes = (s for request in self.requests for r in request.resource_spans for s in r.scope_spans)
        return {span.name: span for scope in scopes for span in scope.spans}


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    made = Backend()
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    made.gate.set()
    await runner.cleanup()


async def test_an_attempt_is_one_trace_in_opentelemetrys_words(backend: Backend) -> None:
    exporter = TraceExporter(ExportTarget(backend.url + "/v1/traces", {"x-team": "rl"}))
    exporter.offer([CALL, REWARD, ENDED])
    assert await exporter.flush(10) == 0
    call, reward, root = (backend.spans[name] for name in ("chat toy", "reward", "attempt"))
    assert {span.trace_id for span in (call, reward)} == {root.trace_id}
    assert call.parent_span_id == reward.parent_span_id == root.span_id
    told = otlp_in.attributes_of(call.attributes)
    assert json.loads(told[semconv.INPUT_MESSAGES]) == [
        {"role": "user", "parts": [{"type": "text", "content": "1+2?"}]}
    ]
    (part,) = json.loads(told[semconv.OUTPUT_MESSAGES])[0]["parts"]
    assert part == {"type": "tool_call", "id": "call_1", "name": "add", "arguments": "{}"}
    assert (told[semconv.RESPONSE_ID], told[semconv.POLICY_VERSION]) == ("chatcmpl-1", 7)
    assert not {semconv.PROMPT_IDS, semconv.CHOICES} & set(told), "tokens stay"
    assert otlp_in.attributes_of(reward.attributes)["gen_ai.evaluation.score.value"] == 0.5
    assert (root.status.code, root.status.message) == (2, "broke")
    assert (backend.headers["x-team"], backend.headers["Content-Encoding"]) == ("rl", "gzip")
    assert b"alr-secret" not in backend.requests[0].SerializeToString()
    (resource,) = backend.requests[0].resource_spans
    assert otlp_in.attributes_of(resource.resource.attributes)[semconv.EXPORTED] is True


def test_an_agents_own_span_leaves_with_the_ids_it_came_with() -> None:
    told = wire_span(CALL)
    told.parent_span_id = b"p" * 8
    told.name = "agent's own"
    event = told.events.add(name="note", time_unix_nano=1_790_000_000_500_000_000)
    event.attributes.add(key="k").value.string_value = "v"
    again = wire_span(otlp_in.span_of(told, {}, Owner("r", 1), 1_790_000_009.0))
    for field in ("trace_id", "span_id", "parent_span_id", "name"):
        assert getattr(again, field) == getattr(told, field)
    assert again.events == told.events


def structured(value: JSON) -> AnyValue:
    """As OTLP tells it."""
    span = wire_span(replace(REWARD, kind=SpanKind.EVENT, attributes={"k": value}))
    return next(pair.value for pair in span.attributes if pair.key == "k")


@pytest.mark.parametrize("name", [semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES, semconv.TOOL_DEFINITIONS])
@pytest.mark.parametrize(
    "value",
    [
        ['{"role": "user", "content": "hi"}'],
        5,
        [None, 1],
        [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}],
        '[{"role": "user", "parts": []}]',
    ],
)
async def test_an_agents_own_messages_leave_as_they_came_whatever_their_shape(
    backend: Backend, name: str, value: JSON
) -> None:
    told = wire_span(replace(CALL, attributes={}))
    told.attributes.add(key=name).value.CopyFrom(structured(value))
    exporter = TraceExporter(ExportTarget(backend.url + "/v1/traces"))
    exporter.offer([otlp_in.span_of(told, {}, Owner("r", 1), 1_790_000_009.0)])
    assert await exporter.flush(10) == 0
    assert otlp_in.attributes_of(backend.spans["chat toy"].attributes)[name] == value


async def test_a_span_that_cannot_be_encoded_is_dropped_alone_and_counted(backend: Backend) -> None:
    exporter = TraceExporter(ExportTarget(backend.url + "/v1/traces"))
    exporter.offer([CALL, replace(REWARD, name="half a pair \ud800"), REWARD])
    assert await exporter.flush(10) == 1
    assert set(backend.spans) == {"chat toy", "reward"}


async def test_a_backend_that_hangs_holds_nobody_up_and_what_it_misses_is_counted(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.gate.clear()
    exporter = TraceExporter(ExportTarget(backend.url + "/v1/traces"), queue_spans=100)
    before = time.perf_counter()
    for _ in range(50):
        exporter.offer([CALL] * 100)
        await asyncio.sleep(0)
    assert time.perf_counter() - before < 2.0
    assert await exporter.flush(0.1) == 5000
    assert not backend.requests
    assert "dropped so far" in caplog.text
    assert caplog.text.count("dropped so far") == 1, "said, but not for each span"


@pytest.mark.parametrize(("statuses", "dropped"), [([503, 429], 0), ([400], 1), ([503] * 3, 1)])
async def test_a_busy_backend_is_asked_again_one_that_refuses_is_not(
    backend: Backend, statuses: list[int], dropped: int
) -> None:
    backend.statuses = statuses
    exporter = TraceExporter(ExportTarget(backend.url + "/v1/traces"))
    exporter.offer([CALL])
    assert await exporter.flush(20) == dropped
    assert not backend.statuses


async def test_a_backend_that_is_not_there_is_no_error() -> None:
    exporter = TraceExporter(ExportTarget("http://127.0.0.1:9/v1/traces"))
    exporter.offer([CALL])
    assert await exporter.flush(20) == 1


def test_the_recipe_wins_over_opentelemetrys_variables() -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318/", "OTEL_EXPORTER_OTLP_HEADERS": "k=a%20b"}
    assert export_target(None, {}, {}) is None
    assert export_target(None, {}, variables) == ExportTarget("http://a:4318/v1/traces", {"k": "a b"})
    assert export_target("https://b", {"x": "y"}, variables) == ExportTarget(
        "https://b/v1/traces", {"x": "y"}
    )
    assert "secret" not in repr(ExportTarget("http://a", {"k": "secret"}))


@pytest.mark.parametrize("is_there", [True, False])
async def test_store_and_recorder_export_what_is_durable_and_a_rollout_does_not_care_whether_it_arrives(
    start_store: Callable[..., Any], store_place: str, backend: Backend, is_there: bool
) -> None:
    url = backend.url if is_there else "http://127.0.0.1:9"
    target = ExportTarget(f"{url}/v1/traces")
    store, exporter = start_store(own=True, export=target), TraceExporter(target)
    await store.enqueue.remote([RolloutRequest("r", "b", "g", Task("t", {}))])
    (claim,) = await store.claim.remote("w", "c", 1, 0.0)
    database = Database(store_place)
    recorder = SpanRecorder(database, exporter)
    await recorder.record(CALL)
    with pytest.raises(AttemptEndedError):
        await recorder.record(replace(CALL, id="chatcmpl-2", name="of another attempt", attempt=2))
    database.close()
    ended = replace(claim.attempt, status=AttemptStatus.SUCCEEDED)
    assert await store.finish.remote([(ended, [REWARD])]) == [True]
    assert await store.finish.remote([(ended, [REWARD])]) == [False]
    dropped = await exporter.flush(20) + await store.flush_export.remote(20)
    assert (dropped, sorted(backend.spans)) == (
        (0, ["attempt", "chat toy", "reward"]) if is_there else (3, [])
    )
    (group,) = await finished(store, "b", 0.0)
    assert [span.id for span in group.rollouts[0].spans] == [CALL.id, REWARD.id]
