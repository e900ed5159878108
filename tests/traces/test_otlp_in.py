"""OTLP as it comes off the wire: well-formed, absurd, and garbage."""

from __future__ import annotations

import base64
import json
from typing import Any

import orjson
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from al_ray.errors import BadRequestError
from al_ray.traces import otlp_in, semconv
from al_ray.traces.otlp_in import Owner
from al_ray.traces.otlp_out import export_of, wire_span
from al_ray.types import Span, SpanKind

OWNER = Owner("step-1/0/0", 1)
NOW = 1_790_000_000.0


def wire(**fields: Any) -> WireSpan:
    times = {"start_time_unix_nano": int((NOW - 2) * 1e9), "end_time_unix_nano": int((NOW - 1) * 1e9)}
    return WireSpan(**{"trace_id": b"t" * 16, "span_id": b"s" * 8, "name": "work", **times, **fields})


def ours(told: WireSpan, owner: Owner = OWNER) -> Span:
    return otlp_in.span_of(told, {}, owner, NOW)


def with_attributes(**attributes: Any) -> WireSpan:
    span = wire()
    for key, value in attributes.items():
        span.attributes.add(key=key.replace("__", ".")).value.CopyFrom(value)
    return span


def test_both_encodings_say_the_same() -> None:
    """JSON has ids in hexadecimal, unlike protobuf's own JSON."""
    request = export_of([wire(parent_span_id=b"p" * 8)])
    told = json_format.MessageToDict(request)
    (span,) = told["resourceSpans"][0]["scopeSpans"][0]["spans"]
    for name in ("traceId", "spanId", "parentSpanId"):
        span[name] = base64.b64decode(span[name]).hex()
    assert otlp_in.parse(json.dumps(told).encode(), is_json=True) == request
    assert otlp_in.parse(request.SerializeToString(), is_json=False) == request


def test_a_span_has_the_id_its_children_know_it_by_and_no_other_attempts() -> None:
    parent, child = ours(wire()), ours(wire(span_id=b"c" * 8, parent_span_id=b"s" * 8))
    assert child.attributes[semconv.PARENT_ID] == parent.id
    assert semconv.PARENT_ID not in parent.attributes
    assert (parent.start, parent.end, parent.kind) == (NOW - 2, NOW - 1, SpanKind.EVENT)
    assert ours(wire(), Owner(OWNER.rollout_id, 2)).id != parent.id, "seeded agents draw the same ids"
    context = otlp_in.trace_context(f"00-{(b't' * 16).hex()}-{(b's' * 8).hex()}-01", OWNER)
    assert context[semconv.PARENT_ID] == parent.id


@pytest.mark.parametrize(
    "header", ["", "00-xyz", f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'0' * 16}-01", "\x00" * 55]
)
def test_a_traceparent_that_says_nothing_is_nothing(header: str) -> None:
    assert otlp_in.trace_context(header, OWNER) == {}


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 0, (NOW, NOW)),
        (1, 2**64 - 1, (NOW, NOW)),
        (int(32_503_680_000e9 % 2**64), 0, (NOW, NOW)),
        (int((NOW - 5) * 1e9), 0, (NOW - 5, NOW - 5)),
        (int((NOW - 5) * 1e9), int((NOW - 9) * 1e9), (NOW - 5, NOW - 5)),
    ],
)
def test_times_that_cannot_be_are_replaced_and_marked(
    start: int, end: int, expected: tuple[float, float]
) -> None:
    span = ours(wire(start_time_unix_nano=start, end_time_unix_nano=end))
    assert (span.start, span.end) == pytest.approx(expected)
    assert span.attributes[semconv.UNTRUSTED_TIME] is True


@pytest.mark.parametrize(
    "ids", [{"trace_id": b""}, {"trace_id": bytes(16)}, {"span_id": b"x"}, {"span_id": bytes(8)}]
)
def test_a_span_without_ids_is_refused(ids: dict[str, bytes]) -> None:
    with pytest.raises(BadRequestError, match="valid ids"):
        ours(wire(**ids))


def test_a_span_is_never_larger_than_a_span_may_be() -> None:
    many, huge, nested = wire(name=""), wire(name="n" * 10_000), wire()
    for number in range(10_000):
        many.attributes.add(key=f"k{number}").value.int_value = number
    for number in range(20):
        huge.attributes.add(key=f"k{number}").value.string_value = "\x00é" * 2**20
        event = huge.events.add(name="exception")
        event.attributes.add(key="exception.stacktrace").value.string_value = "x" * 2**20
    nested.attributes.add(key="k").value.array_value.values.add().double_value = float("nan")
    spans = [ours(each) for each in (many, huge, nested)]
    assert spans[0].attributes[semconv.DROPPED_ATTRIBUTES] == 10_000 - otlp_in.MAX_ATTRIBUTES
    assert spans[0].name == "unnamed"
    assert len(spans[1].name) == otlp_in.MAX_NAME
    assert len(orjson.dumps(spans[1].attributes)) < otlp_in.MAX_SPAN_BYTES + 4096
    assert spans[2].attributes["k"] == ["nan"]


def _field(number: int, content: bytes) -> bytes:
    """Of a message on the wire, for what a generated class would take minutes to write."""
    size = len(content)
    digits = []
    while size > 127:
        digits.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *digits, size]) + content


_MANY = otlp_in.MAX_PARTS + 1
_OBJECTS = b",".join([b"{}"] * otlp_in.MAX_JSON_OBJECTS)


@pytest.mark.parametrize(
    ("kind", "body", "is_json"),
    [
        ("resources", _field(1, b"") * _MANY, False),
        ("scopes", _field(1, _field(2, b"") * _MANY), False),
        ("spans", _field(1, _field(2, _field(2, b"") * _MANY)), False),
        ("events", _field(1, _field(2, _field(2, _field(11, b"") * _MANY))), False),
        ("objects of JSON", b'{"resourceSpans": [%b]}' % _OBJECTS, True),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_an_export_of_more_parts_than_there_may_be_is_refused_at_once(
    kind: str, body: bytes, is_json: bool
) -> None:
    """Of 16 MiB of them, a few kilobytes as they are sent, a gateway was busy for minutes, with gigabytes."""
    with pytest.raises(BadRequestError, match=rf"an export may have \d+ {kind}, not \d+; send smaller"):
        otlp_in.parse(body, is_json=is_json)


def test_of_many_attributes_and_of_long_lists_no_more_is_read_than_is_kept() -> None:
    """As text, which is cut where a value ends that may be kept."""
    span = wire()
    for number in range(otlp_in.MAX_ATTRIBUTES + 3):
        span.attributes.add(key=f"k{number}").value.int_value = number
    attributes = ours(span).attributes
    assert "k255" in attributes and "k256" not in attributes
    assert attributes[semconv.DROPPED_ATTRIBUTES] == 3
    numbers = [0.0] * 50_000
    span = wire()
    listed = span.attributes.add(key="list").value.array_value.values
    named = span.attributes.add(key="map").value.kvlist_value.values
    for number in numbers:
        listed.add(double_value=number)
        named.add(key=f"n{len(named)}").value.double_value = number
    attributes = ours(span).attributes
    whole = {"list": numbers, "map": {f"n{place}": number for place, number in enumerate(numbers)}}
    for name, value in whole.items():
        kept = attributes[name]
        assert len(kept) > otlp_in.MAX_VALUE_BYTES // 2
        assert orjson.dumps(value).decode().startswith(kept)


def test_an_agent_cannot_claim_what_only_the_gateway_knows() -> None:
    told = wire()
    exception = told.events.add(name="exception")
    for key in (semconv.CHOICES, semconv.PROMPT_IDS, semconv.PARENT_ID, semconv.KEY, "al_ray.limit"):
        for written in (key, f"\x00{key}", f"{key[:2]}\x00{key[2:]}"):
            told.attributes.add(key=written).value.string_value = "forged"
            exception.attributes.add(key=written).value.string_value = "forged"
    told.attributes.add(key=semconv.EVENTS).value.string_value = "forged"
    span = ours(told)
    assert "forged" not in span.attributes.values()
    assert span.kind is SpanKind.EVENT


def test_an_exception_and_a_status_are_the_spans_own() -> None:
    told = wire(status=Status(code=Status.STATUS_CODE_ERROR, message="broke"))
    event = told.events.add(name="exception", time_unix_nano=int(NOW * 1e9))
    event.attributes.add(key="exception.type").value.string_value = "TimeoutError"
    attributes = ours(told).attributes
    assert attributes[semconv.EXCEPTION_TYPE] == attributes[semconv.ERROR_TYPE] == "TimeoutError"
    assert (attributes[semconv.STATUS_CODE], attributes[semconv.STATUS_DESCRIPTION]) == ("ERROR", "broke")
    assert attributes[semconv.EVENTS][0]["name"] == "exception"


def test_the_exception_that_ends_many_events_is_kept_and_what_is_left_out_is_counted() -> None:
    """In the order in which they were recorded, whatever their clocks say."""
    told = wire(dropped_events_count=3, dropped_attributes_count=2)
    for number in range(40):
        told.events.add(name=f"chunk {number}", time_unix_nano=int((NOW - number) * 1e9))
    event = told.events.add(name="exception", dropped_attributes_count=1)
    event.attributes.add(key="exception.type").value.string_value = "TimeoutError"
    told.events.add(name="chunk 41")
    attributes = ours(told).attributes
    names = [f"chunk {number}" for number in range(otlp_in.MAX_EVENTS - 1)]
    assert [event["name"] for event in attributes[semconv.EVENTS]] == [*names, "exception"]
    assert attributes[semconv.EXCEPTION_TYPE] == "TimeoutError"
    assert attributes[semconv.DROPPED_ATTRIBUTES] == 42 - otlp_in.MAX_EVENTS + 3 + 2 + 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["exception", "chunk", "\x01" * 300]),
            st.lists(st.sampled_from([1, 1_000, 30_000, 70_000]), max_size=40),
        ),
        max_size=50,
    ),
    st.sampled_from(["x", "é", '"', "\x01"]),
)
def test_events_are_cut_one_by_one_to_what_an_attribute_may_have(
    events: list[tuple[str, list[int]]], character: str
) -> None:
    """They stay events, which can go on to somebody else's backend; nothing is left out uncounted."""
    told = wire()
    for name, lengths in events:
        event = told.events.add(name=name)
        for number, length in enumerate(lengths):
            event.attributes.add(key=f"k{number}").value.string_value = character * length
    span = ours(told)
    kept = span.attributes.get(semconv.EVENTS, [])
    assert len(orjson.dumps(kept)) <= otlp_in.MAX_VALUE_BYTES
    assert len(orjson.dumps(dict(span.attributes))) <= otlp_in.MAX_SPAN_BYTES + 4096
    assert len(kept) == min(len(events), otlp_in.MAX_EVENTS)
    left_out = len(events) - len(kept)
    left_out += sum(len(lengths) for _, lengths in events) - sum(len(event["attributes"]) for event in kept)
    if len(events) <= otlp_in.MAX_EVENTS:
        assert span.attributes.get(semconv.DROPPED_ATTRIBUTES, 0) >= left_out
    sent_on = wire_span(span)
    assert [event.name for event in sent_on.events] == [event["name"] for event in kept]
    assert [otlp_in.attributes_of(event.attributes) for event in sent_on.events] == [
        event["attributes"] for event in kept
    ]


# --- garbage ---------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("traceId", "spanId", "name", "attributes", "startTimeUnixNano", "events", "status", "links", "kind")
almost_spans = st.dictionaries(st.sampled_from(KEYS), json_values, max_size=9)
almost_exports = st.builds(
    lambda spans: {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}, st.lists(almost_spans, max_size=3)
)


def read(body: bytes, is_json: bool) -> None:
    """Reads it as the receiver does; only ``BadRequestError`` may come of it, and JSON that can be stored."""
    try:
        request = otlp_in.parse(body, is_json=is_json)
    except BadRequestError as error:
        assert "ExportTraceServiceRequest" in str(error)
        return
    for resource in request.resource_spans:
        orjson.dumps(otlp_in.attributes_of(resource.resource.attributes))
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            try:
                orjson.dumps(dict(ours(span).attributes))
            except BadRequestError as error:
                assert "span without valid ids" in str(error) or "finite number" in str(error)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_read_or_refused(body: bytes, is_json: bool) -> None:
    read(body, is_json)


@settings(max_examples=80, deadline=None)
@given(json_values | almost_exports)
def test_any_json_is_read_or_refused(body: Any) -> None:
    read(json.dumps(body).encode(), True)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_export_is_read_or_refused(data: st.DataObject) -> None:
    span = wire()
    for key in ("al_ray.reward", "gen_ai.agent.name", "metadata", "agentlightning.reward.0.value"):
        span.attributes.add(key=key).value.string_value = data.draw(st.text(max_size=10))
    body = bytearray(export_of([span]).SerializeToString())
    for _ in range(data.draw(st.integers(0, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(body), False)


def test_deep_nesting_is_refused_not_followed() -> None:
    body = b'{"resourceSpans": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(BadRequestError):
        otlp_in.parse(body, is_json=True)
    request = ExportTraceServiceRequest()
    value = request.resource_spans.add().resource.attributes.add(key="k").value
    for _ in range(60):
        value = value.array_value.values.add()
    value.int_value = 1
    with pytest.raises(BadRequestError):
        otlp_in.parse(request.SerializeToString(), is_json=False)
