"""Our spans on their way to a tracing backend of the user's; never in the way of a rollout.

``offer`` only queues. What does not fit the queue, or what the backend does not take in time, is
dropped, counted and said in the log, at most once a minute.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from al_ray import tracing
from al_ray.traces.otlp_out import attempt_span, export_of, wire_span, without_tokens
from al_ray.types import Attempt, Span

QUEUE_SPANS: Final = 4096
_BATCH: Final = 512
_TRIES: Final = 3
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0)
_AGAIN: Final = frozenset({429, 502, 503, 504})
_SAY_EVERY: Final = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExportTarget:
    """Where traces go: the URL as it is posted to, and headers, which may hold secrets."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def export_target(
    endpoint: str | None, headers: Mapping[str, str], environment: Mapping[str, str]
) -> ExportTarget | None:
    """As the recipe says, else as OpenTelemetry's variables do, else None."""
    url, told = tracing.otlp_endpoint(environment) or (None, {})
    if endpoint is not None:
        url = endpoint.rstrip("/") + "/v1/traces"
    return None if url is None else ExportTarget(url, headers or told)


class TraceExporter:
    """Lives in the event loop of whoever offers."""

    def __init__(self, target: ExportTarget, queue_spans: int = QUEUE_SPANS) -> None:
        self._target = target
        self._limit = queue_spans
        self._queue: deque[Span | Attempt] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._under_way = 0
        self._said = -_SAY_EVERY
        self.dropped = 0
        """Spans, since it was made."""

    def offer(self, recorded: Iterable[Span | Attempt]) -> None:
        """Spans, and attempts that have ended."""
        for each in recorded:
            if len(self._queue) >= self._limit:
                self._drop(1, "more wait than may wait")
            else:
                self._queue.append(without_tokens(each) if isinstance(each, Span) else each)
        if self._queue and (self._sender is None or self._sender.done()):
            self._sender = asyncio.create_task(self._send_all())

    async def flush(self, seconds: float) -> int:
        """Wait for what is queued, but not longer; returns how many spans were dropped, ever."""
        if self._sender is not None and not self._sender.done():
            await asyncio.wait({self._sender}, timeout=seconds)
            self._sender.cancel()
        if left := len(self._queue) + self._under_way:
            self._drop(left, f"not taken within {seconds:g} s of the end")
            self._queue.clear()
            self._under_way = 0
        return self.dropped

    async def _send_all(self) -> None:
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as session:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
                self._under_way = len(batch)
                try:
                    spans, refused = await asyncio.to_thread(_wire_spans, batch)
                    self._under_way = len(spans)
                    if refused:
                        _log.error("spans could not be encoded", exc_info=refused[0])
                        self._drop(len(refused), repr(refused[0]))
                    problem = await self._post(session, await asyncio.to_thread(_body, spans))
                except Exception as error:  # an export that fails is no reason for anything else to
                    _log.error("traces could not be exported", exc_info=error)
                    problem = repr(error)
                if problem:
                    self._drop(self._under_way, problem)
                self._under_way = 0

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> str | None:
        """What went wrong, if it did."""
        headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "gzip",
            **self._target.headers,
        }
        problem = ""
        for tried in range(_TRIES):
            if tried:
                await asyncio.sleep(2**tried / 2)
            try:
                async with session.post(self._target.url, data=body, headers=headers) as response:
                    if response.status < 300:
                        return None
                    problem = f"status {response.status}"
                    if response.status not in _AGAIN:
                        return problem
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = repr(error)
        return problem

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        if time.monotonic() - self._said >= _SAY_EVERY:
            self._said = time.monotonic()
            _log.warning(
                "traces.export: %s: %d spans dropped so far: %s", self._target.url, self.dropped, why
            )


def _wire_spans(batch: Iterable[Span | Attempt]) -> tuple[list[WireSpan], list[Exception]]:
    """Those that can be encoded, and why each of the others cannot, which is no reason to drop its batch."""
    made: list[WireSpan] = []
    refused: list[Exception] = []
    for each in batch:
        try:
            made.append(attempt_span(each) if isinstance(each, Attempt) else wire_span(each))
        except Exception as error:
            refused.append(error)
    return made, refused


def _body(spans: Iterable[WireSpan]) -> bytes:
    return gzip.compress(export_of(spans).SerializeToString(), compresslevel=1)
