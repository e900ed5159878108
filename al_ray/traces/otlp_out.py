"""Our spans for other people's tracing backends: OTLP, with OpenTelemetry's names for GenAI.

Pure functions. All spans of an attempt are in one trace under one root, which is the attempt, except
those of the agent's own telemetry, which keep their trace and their ids. Tokens and log-probabilities
stay here: a backend has no use for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from al_ray.traces import call_span, semconv
from al_ray.types import JSON, Attempt, AttemptStatus, Span, SpanKind

_STAYS: Final = frozenset(
    {
        *call_span.TOKENS,
        semconv.TRACE_ID,
        semconv.WIRE_ID,
        semconv.PARENT_ID,
        semconv.PARENT_WIRE_ID,
        semconv.EVENTS,
        semconv.DROPPED_ATTRIBUTES,
        semconv.STATUS_CODE,
        semconv.STATUS_DESCRIPTION,
    }
)
_MESSAGES: Final = (semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES)
_SCORE: Final = "gen_ai.evaluation.score.value"
_SCORE_NAME: Final = "gen_ai.evaluation.name"


def export_of(spans: Iterable[WireSpan]) -> ExportTraceServiceRequest:
    """One request, marked as ours."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    _add(resource.resource.attributes, {semconv.SERVICE_NAME: "al_ray", semconv.EXPORTED: True})
    scope = resource.scope_spans.add()
    scope.scope.name = "al_ray"
    scope.spans.extend(spans)
    return request


def without_tokens(span: Span) -> Span:
    """The span as it may wait for its export: of its tokens, the policy version is left."""
    told = {name: value for name, value in span.attributes.items() if name not in call_span.TOKENS}
    if span.kind is SpanKind.CALL and (versions := call_span.versions(span)):
        told[semconv.POLICY_VERSION] = versions[0]
    return replace(span, attributes=told)


def wire_span(span: Span) -> WireSpan:
    """One recorded span."""
    told = span.attributes
    trace = told.get(semconv.TRACE_ID)
    root = _digest(16, span.rollout_id, span.attempt)
    wire = WireSpan(
        trace_id=bytes.fromhex(trace) if trace else root,
        span_id=bytes.fromhex(told[semconv.WIRE_ID]) if semconv.WIRE_ID in told else _digest(8, span.id),
        name=span.name,
        kind=WireSpan.SPAN_KIND_CLIENT if span.kind is SpanKind.CALL else WireSpan.SPAN_KIND_INTERNAL,
        start_time_unix_nano=_nanoseconds(span.start),
        end_time_unix_nano=_nanoseconds(span.end),
    )
    if parent := told.get(semconv.PARENT_WIRE_ID):
        wire.parent_span_id = bytes.fromhex(parent)
    elif not trace:
        wire.parent_span_id = _digest(8, span.rollout_id, span.attempt)
    if told.get(semconv.STATUS_CODE) == "ERROR":
        wire.status.CopyFrom(_error(str(told.get(semconv.STATUS_DESCRIPTION, ""))))
    _add(wire.attributes, _of_attempt(span.rollout_id, span.attempt) | _exported(span))
    for event in told.get(semconv.EVENTS, ()):
        added = wire.events.add(name=event["name"], time_unix_nano=_nanoseconds(event["time"]))
        _add(added.attributes, event["attributes"])
    return wire


def attempt_span(attempt: Attempt) -> WireSpan:
    """The root of an ended attempt's trace."""
    wire = WireSpan(
        trace_id=_digest(16, attempt.rollout_id, attempt.number),
        span_id=_digest(8, attempt.rollout_id, attempt.number),
        name="attempt",
        kind=WireSpan.SPAN_KIND_INTERNAL,
        start_time_unix_nano=_nanoseconds(attempt.started_at),
        end_time_unix_nano=_nanoseconds(attempt.ended_at or attempt.started_at),
    )
    status: dict[str, JSON] = {semconv.ATTEMPT_STATUS: str(attempt.status)}
    _add(wire.attributes, _of_attempt(attempt.rollout_id, attempt.number) | status)
    if attempt.status is not AttemptStatus.SUCCEEDED:
        wire.status.CopyFrom(_error(attempt.error or str(attempt.status)))
    return wire


def _exported(span: Span) -> dict[str, JSON]:
    kept = {name: value for name, value in span.attributes.items() if name not in _STAYS}
    told = {name: value for name, value in kept.items() if value is not None}
    if span.kind is SpanKind.CALL:  # what an agent's own telemetry tells has whatever shape its SDK gave it
        for name in _MESSAGES:
            if isinstance(told.get(name), list):
                told[name] = orjson.dumps([_message(each) for each in told[name]]).decode()
        if isinstance(told.get(semconv.TOOL_DEFINITIONS), list):
            told[semconv.TOOL_DEFINITIONS] = orjson.dumps(told[semconv.TOOL_DEFINITIONS]).decode()
        told |= {"gen_ai.provider.name": "al_ray", semconv.RESPONSE_ID: span.id}
    if span.kind is SpanKind.REWARD:
        told |= {_SCORE_NAME: span.name, _SCORE: told[semconv.REWARD]}
    return told


def _message(message: Mapping[str, JSON]) -> dict[str, JSON]:
    """From OpenAI's shape into OpenTelemetry's: a role and its parts."""
    parts: list[dict[str, JSON]] = []
    role, content = message.get("role"), message.get("content")
    if reasoning := message.get("reasoning"):
        parts.append({"type": "reasoning", "content": reasoning})
    if role == "tool":
        parts.append({"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content})
    elif isinstance(content, str) and content:
        parts.append({"type": "text", "content": content})
    elif isinstance(content, Sequence) and not isinstance(content, str):
        parts += [_part(part) for part in content if isinstance(part, Mapping)]
    for call in message.get("tool_calls") or ():
        function: Mapping[str, Any] = call.get("function") or {}
        asked = {"name": function.get("name"), "arguments": function.get("arguments")}
        parts.append({"type": "tool_call", "id": call.get("id"), **asked})
    return {"role": role, "parts": parts}


def _part(part: Mapping[str, JSON]) -> dict[str, JSON]:
    return {"type": "text", "content": part["text"]} if "text" in part else dict(part)


def _of_attempt(rollout_id: str, attempt: int) -> dict[str, JSON]:
    return {semconv.ROLLOUT_ID: rollout_id, semconv.ATTEMPT: attempt}


def _error(message: str) -> Status:
    return Status(code=Status.STATUS_CODE_ERROR, message=message)


def _nanoseconds(seconds: float) -> int:
    return max(0, int(seconds * 1e9)) & (2**64 - 1)


def _digest(size: int, *names: object) -> bytes:
    return hashlib.blake2b("\n".join(map(str, names)).encode(), digest_size=size).digest()


def _add(pairs: Any, attributes: Mapping[str, JSON]) -> None:
    for key, value in attributes.items():
        pairs.add(key=key, value=_any(value))


def _any(value: JSON) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if value is None or isinstance(value, str):
        return AnyValue(string_value=value) if value is not None else AnyValue()
    made = AnyValue()
    if isinstance(value, Mapping):
        made.kvlist_value.SetInParent()
        _add(made.kvlist_value.values, value)
    elif isinstance(value, Sequence):
        made.array_value.SetInParent()
        made.array_value.values.extend(_any(each) for each in value)
    else:
        made.string_value = str(value)
    return made
