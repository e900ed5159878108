"""OTLP's traces as they come off the wire, and the spans that they become.

``parse`` reads a request in either encoding, ``span_of`` makes one of its spans ours. A span's id is
a function of its attempt and of the ids on the wire, so a repeated export changes nothing, parents
are found without a look-up, and two attempts whose SDKs draw the same random ids stay apart.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from al_ray.errors import BadRequestError
from al_ray.traces import sdk_names, semconv
from al_ray.types import JSON, Span, SpanKind

MAX_ATTRIBUTES: Final = 256
MAX_VALUE_BYTES: Final = 64 * 2**10
MAX_SPAN_BYTES: Final = 256 * 2**10
MAX_NAME: Final = 256
MAX_EVENTS: Final = 32
MAX_PARTS: Final = 2**17
"""Of each kind (resources, scopes, spans, events) in one export. Empty ones are two bytes each on the wire,
hundreds in memory, and work for tens of microseconds."""
MAX_JSON_OBJECTS: Final = 2**19
"""In one export."""
_ENOUGH_BYTES: Final = 4 * MAX_VALUE_BYTES
"""On the wire, of which JSON takes no less than ``MAX_VALUE_BYTES``."""
_LEAST_BYTES: Final = 64
"""A number takes less, and a text that is cut to less says nothing."""
_LEAST_PART_BYTES: Final = 2
"""Of a part on the wire, beside what it holds."""
_EXCEPTION: Final = "exception"
_EARLIEST: Final = 946_684_800.0
"""The year 2000: a clock that says less is not set."""
_AHEAD_SECONDS: Final = 86_400.0
_TOLD_BY_AGENTS: Final = frozenset({semconv.REWARD, semconv.REWARD_DIMENSIONS, semconv.REWARD_CALL})
"""Of our own names, those that an agent may use; the others are what only the gateway knows."""
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")

_Part = TypeVar("_Part", AnyValue, KeyValue)


@dataclass(frozen=True, slots=True)
class Owner:
    """The attempt that a span belongs to."""

    rollout_id: str
    attempt: int


def parse(body: bytes, *, is_json: bool) -> ExportTraceServiceRequest:
    """Raises ``BadRequestError`` for what is no export of traces, or has too many parts to be one."""
    request = ExportTraceServiceRequest()
    try:
        if is_json:
            _require(body.count(b"{"), MAX_JSON_OBJECTS, "objects of JSON")
            told = orjson.loads(body)
            if not isinstance(told, dict):
                raise ValueError("it is no object")
            json_format.ParseDict(_with_base64_ids(told), request, ignore_unknown_fields=True)
        else:
            request.ParseFromString(body)
    except (orjson.JSONDecodeError, json_format.ParseError, DecodeError, ValueError, RecursionError) as error:
        kind = "JSON" if is_json else "protobuf"
        raise BadRequestError(f"the body is no ExportTraceServiceRequest in {kind}: {error}") from None
    resources = _few([request], "resource_spans", "resources")
    scopes = _few(resources, "scope_spans", "scopes")
    _few(_few(scopes, "spans", "spans"), "events", "events")
    return request


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, JSON]:
    """As JSON values; of a name that is there twice, the last counts."""
    return {_text(pair.key)[:MAX_NAME]: _value(pair.value) for pair in pairs if pair.key}


def span_of(told: trace_pb2.Span, context: Mapping[str, JSON], owner: Owner, now: float) -> Span:
    """One span of ``owner``; ``context`` is what its resource says. Raises ``BadRequestError``."""
    if len(told.trace_id) != 16 or len(told.span_id) != 8 or not any(told.trace_id) or not any(told.span_id):
        raise BadRequestError("a span without valid ids: 16 bytes of trace_id, 8 of span_id, not all zero")
    name = _text(told.name)[:MAX_NAME] or "unnamed"
    trace = told.trace_id.hex()
    attributes = sdk_names.understood(name, {**_bounded(told), **_status(told), **context})
    attributes |= {semconv.TRACE_ID: trace, semconv.WIRE_ID: told.span_id.hex()}
    if any(told.parent_span_id):
        attributes |= _parent(owner, trace, told.parent_span_id.hex())
    start, end = told.start_time_unix_nano / 1e9, told.end_time_unix_nano / 1e9
    latest = now + _AHEAD_SECONDS
    if not _EARLIEST <= start <= end <= latest:
        start = start if _EARLIEST <= start <= latest else now
        end = end if start <= end <= latest else start
        attributes[semconv.UNTRUSTED_TIME] = True
    return Span(
        id=span_id(owner, trace, told.span_id.hex()),
        rollout_id=owner.rollout_id,
        attempt=owner.attempt,
        kind=SpanKind.REWARD if semconv.REWARD in attributes else SpanKind.EVENT,
        name=name,
        start=start,
        end=end,
        attributes=attributes,
    )


def span_id(owner: Owner, trace: str, wire_id: str) -> str:
    """Ours, from the ids on the wire in hexadecimal."""
    name = f"{owner.rollout_id}\n{owner.attempt}\n{trace}\n{wire_id}"
    return "otlp-" + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def trace_context(traceparent: str, owner: Owner) -> dict[str, JSON]:
    """What a request's W3C ``traceparent`` header says of the span that made it; empty if nothing."""
    found = _TRACEPARENT.fullmatch(traceparent.strip().lower())
    if found is None or not found[1].strip("0") or not found[2].strip("0"):
        return {}
    return {semconv.TRACE_ID: found[1], **_parent(owner, found[1], found[2])}


def _parent(owner: Owner, trace: str, wire_id: str) -> dict[str, JSON]:
    return {semconv.PARENT_ID: span_id(owner, trace, wire_id), semconv.PARENT_WIRE_ID: wire_id}


def _few(holders: Sequence[Any], name: str, kind: str) -> Sequence[Any]:
    """The parts of all ``holders`` that have this name. They are counted before any is looked at."""
    _require(sum(len(getattr(holder, name)) for holder in holders), MAX_PARTS, kind)
    return [part for holder in holders for part in getattr(holder, name)]


def _require(found: int, most: int, kind: str) -> None:
    if found > most:
        raise BadRequestError(f"an export may have {most} {kind}, not {found}; send smaller batches")


def _with_base64_ids(body: JSON) -> JSON:
    """OTLP writes ids in hexadecimal, where protobuf's own JSON has base64."""
    for resource in _objects(body, "resourceSpans"):
        for scope in _objects(resource, "scopeSpans"):
            for span in _objects(scope, "spans"):
                for holder in (span, *_objects(span, "links")):
                    for name in ("traceId", "spanId", "parentSpanId"):
                        if isinstance(holder.get(name), str):
                            holder[name] = base64.b64encode(bytes.fromhex(holder[name])).decode()
    return body


def _objects(holder: JSON, name: str) -> Iterable[dict[str, Any]]:
    """What is no object, the parser will refuse."""
    found = holder.get(name) if isinstance(holder, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else ()


def _bounded(told: trace_pb2.Span) -> dict[str, JSON]:
    """What was recorded with the span, as far as a span has room for it; of an exception within it, the
    attributes too."""
    kept: dict[str, JSON] = {}
    events, exceptions, dropped = _events(told)
    room, dropped = MAX_SPAN_BYTES, dropped + told.dropped_attributes_count
    pairs = told.attributes[:MAX_ATTRIBUTES]
    dropped += len(told.attributes) - len(pairs)
    own = [(_text(pair.key)[:MAX_NAME], _value(pair.value)) for pair in pairs]
    within = [(semconv.EVENTS, events)] if events else []
    for key, told_value in (*_of_agents(own), *within, *_of_agents(exceptions)):
        value, size = _sized(told_value, MAX_VALUE_BYTES)
        if len(kept) >= MAX_ATTRIBUTES or size > room:
            dropped += 1
            continue
        room -= size
        kept[key] = value
    if dropped:
        kept[semconv.DROPPED_ATTRIBUTES] = dropped
    return kept


def _of_agents(attributes: Iterable[tuple[str, JSON]]) -> Iterator[tuple[str, JSON]]:
    """Those of them that an agent may tell."""
    for key, value in attributes:
        if key and (not key.startswith(semconv.OURS) or key in _TOLD_BY_AGENTS):
            yield key, value


def _events(told: trace_pb2.Span) -> tuple[list[dict[str, Any]], list[tuple[str, JSON]], int]:
    """The events that there is room for in one attribute, in their order; what the exceptions among them say;
    how many events and attributes there is no room for. Exceptions, which come last, have it first."""
    places = sorted(range(len(told.events)), key=lambda place: told.events[place].name != _EXCEPTION)
    chosen = {place: told.events[place] for place in places[:MAX_EVENTS]}
    kept = {place: _without_attributes(event) for place, event in chosen.items()}
    dropped = told.dropped_events_count + len(told.events) - len(chosen)
    exceptions: list[tuple[str, JSON]] = []
    room = MAX_VALUE_BYTES - len(orjson.dumps([*kept.values()]))
    for place, event in chosen.items():
        attributes = attributes_of(event.attributes[:MAX_EVENTS])
        dropped += event.dropped_attributes_count + max(0, len(event.attributes) - MAX_EVENTS)
        if event.name == _EXCEPTION:
            exceptions += attributes.items()
        for key, told_value in attributes.items():
            left = room - len(orjson.dumps({key: ""}))
            if left < _LEAST_BYTES:
                dropped += 1
                continue
            kept[place]["attributes"][key], size = _sized(told_value, left)
            room = left - size
    return [kept[place] for place in sorted(kept)], exceptions, dropped


def _without_attributes(event: trace_pb2.Span.Event) -> dict[str, Any]:
    return {"name": _text(event.name)[:MAX_NAME], "time": event.time_unix_nano / 1e9, "attributes": {}}


def _sized(value: JSON, limit: int) -> tuple[JSON, int]:
    """The value, cut to the limit (as text if it has parts), and how much it takes."""
    raw = orjson.dumps(value)
    if len(raw) <= limit:
        return value, len(raw)
    text = value if isinstance(value, str) else raw.decode()
    cut = text.encode()[: limit - 2].decode(errors="ignore")
    while (size := len(orjson.dumps(cut))) > limit:  # what is escaped takes up to six times as much
        cut = cut[: len(cut) * limit // size]
    return cut, size


def _status(told: trace_pb2.Span) -> dict[str, JSON]:
    if told.status.code == trace_pb2.Status.STATUS_CODE_UNSET:
        return {}
    is_error = told.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    status: dict[str, JSON] = {semconv.STATUS_CODE: "ERROR" if is_error else "OK"}
    if told.status.message:
        status[semconv.STATUS_DESCRIPTION] = _text(told.status.message)[:MAX_VALUE_BYTES]
    return status


def _value(value: AnyValue) -> JSON:
    match value.WhichOneof("value"):
        case "string_value":
            return _text(value.string_value)
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            number = value.double_value
            return number if math.isfinite(number) else str(number)
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "array_value":
            return [_value(each) for each in _enough(value.array_value.values)]
        case "kvlist_value":
            return attributes_of(_enough(value.kvlist_value.values))
    return None


def _enough(parts: Iterable[_Part]) -> Iterator[_Part]:
    """As many as there could be room for: the others would be converted to be cut off."""
    size = 0
    for part in parts:
        yield part
        size += part.ByteSize() + _LEAST_PART_BYTES
        if size > _ENOUGH_BYTES:
            return


def _text(text: str) -> str:
    """Without NUL, which databases refuse."""
    return text.replace("\x00", "")
