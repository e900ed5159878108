"""The OTLP/HTTP receiver: ``POST /v1/traces``, as any OpenTelemetry SDK or collector sends it.

Whose spans they are is proven, never believed. By the attempt's API key on the request, or, where a
collector stands between and sends many attempts at once, as the resource attribute ``al_ray.key``; a
key's spans land with its attempt, whatever else they say of themselves, and a span that names another
attempt is rejected. A collector with the run's collector key is trusted to name the attempt: by the
resource attributes of its rollout and its number, else by a trace whose owner is already known.

What is accepted is durable when it is answered. What is not is counted in the answer's partial success,
with the reason; what may be sent again is answered with a status that says so.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
from sqlalchemy.exc import OperationalError

from al_ray.actors.gateway.attempt_keys import AttemptKeys, key_of
from al_ray.actors.recent import Recent
from al_ray.actors.store.span_recorder import SpanRecorder
from al_ray.errors import AttemptEndedError, BadRequestError, StoreError
from al_ray.traces import otlp_in, semconv
from al_ray.traces.otlp_in import Owner
from al_ray.types import JSON, Span

PATH: Final = "/v1/traces"
MAX_BODY_BYTES: Final = 8 * 2**20
"""As sent."""
MAX_PLAIN_BYTES: Final = 16 * 2**20
"""Without its compression."""
MAX_ATTEMPT_BYTES: Final = 64 * 2**20
"""Of one attempt's spans together, as sent; of its events and of its rewards (``agent_reports``) as much."""
LEAST_SPAN_BYTES: Final = 2**10
"""That a span counts for: what it takes in the store and in memory, however little it says."""
_EXPORTS_AT_ONCE: Final = 4
_BODIES_AT_ONCE: Final = 2
"""Of one attempt, or of all who send no key."""
_BODY_SECONDS: Final = 30.0
_ATTEMPTS_KNOWN: Final = 10_000
_TRACES_KNOWN: Final = 100_000
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_REASONS: Final = 5
_REASON_LENGTH: Final = 300
_TYPES: Final = {"application/x-protobuf": False, "application/json": True}

_Kept = dict[Owner, dict[str, Span]]
"""What was accepted, by attempt and by the span's id."""

_log = logging.getLogger(__name__)


class _Refused(Exception):
    """The whole export, with a status of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class OtlpReceiver:
    """Give its ``routes`` to the gateway's application."""

    def __init__(self, keys: AttemptKeys, recorder: SpanRecorder, collector_key: str | None = None) -> None:
        self._keys = keys
        self._recorder = recorder
        self._collector_key = collector_key
        self._room = asyncio.Semaphore(_EXPORTS_AT_ONCE)
        self._bodies: Recent[Owner | str | None, asyncio.Semaphore] = Recent(_ATTEMPTS_KNOWN)
        """By whose key it came with, so that a body that never ends keeps nobody else waiting."""
        self._converting = asyncio.Lock()
        self._owners: Recent[bytes, Owner | None] = Recent(_TRACES_KNOWN)
        """By trace id; None where two attempts use the same."""
        self._received: Recent[Owner, int] = Recent(_ATTEMPTS_KNOWN)
        """Bytes."""

    def routes(self) -> list[web.RouteDef]:
        return [web.post(PATH, self._export)]

    async def _export(self, request: web.Request) -> web.Response:
        is_json = _TYPES.get(request.content_type)
        if is_json is None:
            wrong = f"Content-Type {request.content_type!r}: send application/x-protobuf or application/json"
            return _answer(Status(message=wrong), 415, is_json=False)
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        try:
            if encoding not in ("gzip", "deflate", "identity"):
                raise _Refused(415, f"Content-Encoding {encoding!r}: send gzip, or nothing")
            key = await self._key(request)
            async with self._bodies.setdefault(key, asyncio.Semaphore(_BODIES_AT_ONCE)):
                body = await _read(request)
                async with self._room:
                    export = await asyncio.to_thread(otlp_in.parse, body, is_json=is_json)
                    del body
                    rejected = await self._keep(export, key)
        except _Refused as refused:
            return _answer(Status(message=str(refused)), refused.status, is_json)
        except AttemptEndedError as error:
            return _answer(Status(message=str(error)), 401, is_json)
        except BadRequestError as error:
            return _answer(Status(code=3, message=str(error)), 400, is_json)
        except (OperationalError, StoreError):
            _log.exception("an export of traces could not be kept")
            return _answer(Status(message="the store is away; send it again"), 503, is_json)
        reply = ExportTraceServiceResponse()
        if rejected:
            reply.partial_success.rejected_spans = rejected.total()
            reply.partial_success.error_message = _summary(rejected)
        return _answer(reply, 200, is_json)

    async def _key(self, request: web.Request) -> Owner | str | None:
        """The attempt whose key is on the request, the collector's key, or nothing."""
        key = key_of(request)
        if self._is_collector(key):
            return key
        return await self._owner(key) if key else None

    def _is_collector(self, key: str) -> bool:
        mine = self._collector_key
        return mine is not None and hmac.compare_digest(key.encode(errors="replace"), mine.encode())

    async def _owner(self, key: str) -> Owner:
        attempt = (await self._keys.of(key)).attempt
        return Owner(attempt.rollout_id, attempt.number)

    async def _keep(self, export: ExportTraceServiceRequest, key: Owner | str | None) -> Counter[str]:
        """Make the spans durable; returns the rejected ones, counted by reason."""
        rejected: Counter[str] = Counter()
        owned: list[tuple[ResourceSpans, dict[str, JSON], Owner | None]] = []
        anonymous = 0
        for resource in export.resource_spans:
            pairs = resource.resource.attributes[: otlp_in.MAX_ATTRIBUTES]
            told = await asyncio.to_thread(otlp_in.attributes_of, pairs)
            if told.get(semconv.EXPORTED):
                continue  # our own, on their way back through a collector: they are here already
            try:
                owned.append((resource, told, await self._resource_owner(told, key)))
            except (BadRequestError, AttemptEndedError) as error:
                count = sum(len(scope.spans) for scope in resource.scope_spans)
                rejected[str(error)] += count
                anonymous += count if key is None and semconv.KEY not in told else 0
        if anonymous and not owned and anonymous == rejected.total():
            raise _Refused(401, next(iter(rejected)))
        # Those that are told by their trace alone come last: the others tell whose it is.
        owned.sort(key=lambda each: each[2] is None)
        kept: _Kept = defaultdict(dict)
        async with self._converting:
            for resource, told, owner in owned:
                rejected += await asyncio.to_thread(self._convert, resource, told, owner, kept)
        return rejected + await self._append(kept)

    async def _append(self, kept: _Kept) -> Counter[str]:
        """Returns what the store rejects."""
        rejected: Counter[str] = Counter()
        groups = [list(spans.values()) for spans in kept.values()]
        outcomes = await self._recorder.append(groups) if groups else []
        for spans, outcome in zip(groups, outcomes, strict=True):
            if isinstance(outcome, AttemptEndedError):
                rejected[str(outcome)] += len(spans)
            elif outcome is not None:
                _log.error("spans could not be kept", exc_info=outcome)
                raise _Refused(503, "the store could not keep the spans; send them again")
        return rejected

    async def _resource_owner(self, told: Mapping[str, JSON], key: Owner | str | None) -> Owner | None:
        """None: the collector's, to be told by trace."""
        named = _named_owner(told)
        if isinstance(told.get(semconv.KEY), str):
            owner: Owner | None = await self._owner(told[semconv.KEY])
        elif isinstance(key, str):
            return named
        else:
            owner = key
        if owner is None:
            raise AttemptEndedError(
                "no API key: send the header 'Authorization: Bearer KEY', or the resource attribute "
                + semconv.KEY
            )
        if named is not None and named != owner:
            raise AttemptEndedError("spans that name another attempt than the key's")
        return owner

    def _convert(
        self,
        resource: ResourceSpans,
        told: Mapping[str, JSON],
        owner: Owner | None,
        kept: _Kept,
    ) -> Counter[str]:
        """Adds to ``kept``; returns the rejected. Runs on a thread, one export's at a time."""
        rejected: Counter[str] = Counter()
        now = time.time()
        context = {name: told[name] for name in (semconv.SERVICE_NAME,) if name in told}
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            mine = owner or self._owners.get(span.trace_id)
            if mine is None:
                rejected["spans of a trace that belongs to no attempt, or to several"] += 1
                continue
            size = self._received.get(mine, 0) + max(span.ByteSize(), LEAST_SPAN_BYTES)
            if size > MAX_ATTEMPT_BYTES:
                rejected[f"spans beyond the {MAX_ATTEMPT_BYTES} bytes of an attempt"] += 1
                continue
            try:
                made = otlp_in.span_of(span, context, mine, now)
            except BadRequestError as error:
                rejected[str(error)] += 1
                continue
            kept[mine].setdefault(made.id, made)
            self._received[mine] = size
            if owner is not None:
                # A trace that two attempts use belongs to neither: nobody can take another's by its id.
                known = self._owners.get(span.trace_id, owner)
                self._owners[span.trace_id] = owner if known == owner else None
        return rejected


def _named_owner(told: Mapping[str, JSON]) -> Owner | None:
    """The attempt that a resource says it is of."""
    rollout_id, attempt = told.get(semconv.ROLLOUT_ID), told.get(semconv.ATTEMPT)
    if rollout_id is None and attempt is None:
        return None
    if not isinstance(rollout_id, str) or not _NUMBER.fullmatch(str(attempt)):
        wrong = f"{semconv.ROLLOUT_ID}={rollout_id!r} with {semconv.ATTEMPT}={attempt!r}"
        raise BadRequestError(f"{wrong}: give both, an id and a number")
    return Owner(rollout_id, int(str(attempt)))


async def _read(request: web.Request) -> bytes:
    """The body, which aiohttp decompresses a piece at a time."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                sent = request.content.total_compressed_bytes or size
                if size > MAX_PLAIN_BYTES or sent > MAX_BODY_BYTES:
                    raise _Refused(
                        413,
                        f"a body may have {MAX_BODY_BYTES} bytes as it is sent, {MAX_PLAIN_BYTES} when it is "
                        "decompressed; send smaller batches",
                    )
                chunks.append(chunk)
    except TimeoutError:
        raise _Refused(408, f"the body had not arrived after {_BODY_SECONDS:g} s") from None
    except (web.RequestPayloadError, ContentEncodingError) as error:
        raise BadRequestError(f"the body cannot be decompressed: {error}") from None
    return b"".join(chunks)


def _answer(message: Message, status: int, is_json: bool) -> web.Response:
    body = json_format.MessageToJson(message).encode() if is_json else message.SerializeToString()
    content_type = "application/json" if is_json else "application/x-protobuf"
    headers = {"Retry-After": "1"} if status == 503 else {}
    return web.Response(body=body, status=status, content_type=content_type, headers=headers)


def _summary(rejected: Counter[str]) -> str:
    told = [f"{count} x {why[:_REASON_LENGTH]}" for why, count in rejected.most_common(_REASONS)]
    return "; ".join(told) + ("; ..." if len(rejected) > _REASONS else "")
