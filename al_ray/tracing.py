"""The embedded tracer: what an agent does besides calling the model, told to its gateway.

This one file needs Python 3.10 and its standard library; copy it beside an agent that cannot have al_ray.
It sends OTLP in JSON to the endpoint that OpenTelemetry's variables name, which the runner sets for
agents that are processes, or to that of an ``Endpoint``::

    from al_ray import tracing

    @tracing.tool                                 # sync, async, generators; arguments and result are kept
    def add(a: int, b: int) -> int: ...

    async def agent(task, llm):
        async with tracing.attempt(llm):          # not needed where the variables are set
            with tracing.agent("writer"):
                with tracing.operation("plan", depth=2) as plan:
                    plan["steps"] = 3
                reply = await client.chat.completions.create(..., extra_headers=tracing.headers())
            tracing.reward({"reward": 1.0, "style": 0.5}, call=reply.id)

Where there is no endpoint nothing is recorded, so the same agent runs anywhere. Recording does not wait
for the network: spans go into a bounded queue that a thread empties twice a second, when the process
ends, and when ``attempt`` does. Only a reward that names no call waits until it is sent, for the gateway
knows by the order alone which call it is for. What cannot be sent is dropped, counted (``dropped``) and
logged.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import http.client
import inspect
import json
import logging
import math
import os
import secrets
import sys
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

QUEUE_SPANS: Final = 4096
"""What waits to be sent; more is dropped."""
_LARGEST_REWARD: Final = 1e30
MAX_TEXT: Final = 32 * 2**10
"""Characters of one attribute."""
_BATCH: Final = 256
_EVERY: Final = 0.5
_TRIES: Final = 4
_TIMEOUT: Final = 10.0
_DEPTH: Final = 8

_log = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Begin = Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]
_End = Callable[[dict[str, Any], Any], Any]


class Endpoint(Protocol):
    """What an agent is given to reach the model, as far as it matters here."""

    @property
    def base_url(self) -> str: ...

    @property
    def api_key(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _Target:
    url: str
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Inside:
    """Where in which trace we are."""

    trace: str
    span: str | None


_target: ContextVar[_Target | None] = ContextVar("al_ray_target", default=None)
_place: ContextVar[_Inside | None] = ContextVar("al_ray_place", default=None)


class attempt:
    """What is recorded within ``with attempt(llm)`` or ``async with attempt(llm)`` belongs to the attempt
    of ``llm``, and has been sent when it ends, if that is possible in ``flush_seconds``."""

    def __init__(self, llm: Endpoint, flush_seconds: float = 5.0) -> None:
        headers = (("Authorization", f"Bearer {llm.api_key}"),)
        self._own = (
            _Target(f"{llm.base_url.rstrip('/')}/traces", headers),
            _Inside(secrets.token_hex(16), None),
        )
        self._outer: tuple[_Target | None, _Inside | None] = None, None
        self._flush_seconds = flush_seconds

    def __enter__(self) -> None:
        self._outer = _target.get(), _place.get()
        _target.set(self._own[0])
        _place.set(self._own[1])

    def __exit__(self, *_: object) -> None:
        self._leave()
        flush(self._flush_seconds)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self._leave()
        await asyncio.to_thread(flush, self._flush_seconds)

    def _leave(self) -> None:
        _target.set(self._outer[0])
        _place.set(self._outer[1])


@contextmanager
def operation(name: str, **attributes: Any) -> Iterator[dict[str, Any]]:
    """Everything recorded inside is nested in it. What is put into the mapping that it yields is kept; an
    exception is recorded and goes on its way."""
    with _span(name, {"gen_ai.operation.name": "operation", **attributes}) as span:
        yield span


@contextmanager
def agent(name: str, **attributes: Any) -> Iterator[dict[str, Any]]:
    """An operation whose calls to the model are those of the agent ``name``."""
    told = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name, **attributes}
    with _span(f"invoke_agent {name}", told) as span:
        yield span


def tool(function: _Function) -> _Function:
    """Decorator: each call of the function is a tool's execution, with its arguments and its result."""
    signature = inspect.signature(function)
    name = getattr(function, "__name__", "tool")

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            arguments = dict(signature.bind(*args, **kwargs).arguments)
        except TypeError:  # the function will say so itself
            arguments = {"args": args, **kwargs}
        return {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.arguments": _json(arguments),
        }

    def end(span: dict[str, Any], result: Any) -> Any:
        span["gen_ai.tool.call.result"] = _json(result)
        return result

    return _traced(function, f"execute_tool {name}", begin, end)


def traced(function: _Function) -> _Function:
    """Decorator: each call of the function is an operation."""
    name = getattr(function, "__qualname__", "operation")
    operation = {"gen_ai.operation.name": "operation"}
    return _traced(function, name, lambda args, kwargs: dict(operation), lambda span, result: result)


def reward(value: float | Mapping[str, float], *, call: str | None = None) -> None:
    """A reward, or several by name of which ``reward`` (else the first) is the primary one. ``call`` is
    the id of the model's response that earned it; without it, the last call before it did, and this returns
    when the gateway has the reward: whatever is called afterwards, by any thread, task or process, comes
    after it there. That takes some milliseconds, in which an event loop stands still."""
    given = value if isinstance(value, Mapping) else {"reward": value}
    by_name = {str(name): float(each) for name, each in given.items() if abs(each) <= _LARGEST_REWARD}
    if not by_name or len(by_name) < len(given):
        raise ValueError(
            f"reward: {value!r}: give a finite number, of at most {_LARGEST_REWARD:g}, or some by name"
        )
    primary = by_name.get("reward", next(iter(by_name.values())))
    attributes = {"al_ray.reward": primary, "al_ray.reward.call": call}
    with _span("reward", {**attributes, "al_ray.reward.dimensions": by_name}):
        pass
    if call is None and not flush():
        _log.warning("the gateway takes long to take a reward: it may count for a later call; give its call")


def annotate(name: str, **attributes: Any) -> None:
    """An event worth keeping."""
    with _span(name, attributes):
        pass


def exception(error: BaseException) -> None:
    """An exception that the agent has dealt with; one that leaves an operation is recorded by itself."""
    with _span("exception", _described(error)):
        pass


def headers() -> dict[str, str]:
    """For a request to the model: they tell the gateway within which operation the call is made."""
    place = _place.get()
    if place is None or place.span is None:
        return {}
    return {"traceparent": f"00-{place.trace}-{place.span}-01"}


def flush(seconds: float = 5.0) -> bool:
    """Wait until what was recorded before is sent; False if it was not within ``seconds``."""
    return _sender.flush(seconds)


def dropped() -> int:
    """How many spans of this process could not be sent."""
    return _sender.dropped


# --- recording -------------------------------------------------------------------------------------


@contextmanager
def _span(name: str, attributes: dict[str, Any], *, nests: bool = True) -> Iterator[dict[str, Any]]:
    target = _target.get() or _target_of_environment()
    if target is None:
        yield attributes
        return
    before = _place.get()
    outer = before or _Inside(secrets.token_hex(16), None)
    mine = _Inside(outer.trace, secrets.token_hex(8))
    if nests:
        _place.set(mine)
    start = time.time_ns()
    try:
        yield attributes
    except GeneratorExit:  # whoever iterated has seen enough: nobody's failure
        raise
    except BaseException as error:
        attributes.update(_described(error))
        raise
    finally:
        if nests:
            _place.set(before)
        _sender.add(target, _encoded(mine, outer, name, start, attributes))


def _traced(function: _Function, name: str, begin: _Begin, end: _End) -> _Function:
    """The function with a span around each call: ``begin`` makes its attributes, ``end`` adds the result."""

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with _span(name, begin(args, kwargs)) as span:
            return end(span, function(*args, **kwargs))

    @functools.wraps(function)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        with _span(name, begin(args, kwargs)) as span:
            return end(span, await function(*args, **kwargs))

    # A generator runs in the context of whoever asks it for the next value, so nothing nests in it.
    @functools.wraps(function)
    def generator(*args: Any, **kwargs: Any) -> Any:
        with _span(name, begin(args, kwargs), nests=False) as span:
            return end(span, (yield from function(*args, **kwargs)))

    @functools.wraps(function)
    async def async_generator(*args: Any, **kwargs: Any) -> Any:
        with _span(name, begin(args, kwargs), nests=False):
            async for value in function(*args, **kwargs):
                yield value

    made: Any = plain
    if inspect.iscoroutinefunction(function):
        made = coroutine
    elif inspect.isgeneratorfunction(function):
        made = generator
    elif inspect.isasyncgenfunction(function):
        made = async_generator
    return made


def _described(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return {
        "error.type": name,
        "exception.type": name,
        "exception.message": _text(error, str),
        "exception.stacktrace": _text(error, lambda error: "".join(traceback.format_exception(error))),
    }


def _encoded(
    place: _Inside, outer: _Inside, name: str, start: int, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    """OTLP's ``Span`` in JSON."""
    told = [{"key": key, "value": _value(value)} for key, value in attributes.items() if value is not None]
    return {
        "traceId": place.trace,
        "spanId": place.span,
        "parentSpanId": outer.span or "",
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(time.time_ns()),
        "attributes": told,
        "status": {"code": 2} if "error.type" in attributes else {},
    }


def _value(value: Any, depth: int = 0) -> dict[str, Any]:
    """OTLP's ``AnyValue`` in JSON."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return {"intValue": str(value)}
    if isinstance(value, float) and math.isfinite(value):
        return {"doubleValue": value}
    if isinstance(value, Mapping) and depth < _DEPTH:
        pairs = [{"key": _text(key, str), "value": _value(each, depth + 1)} for key, each in value.items()]
        return {"kvlistValue": {"values": pairs}}
    if isinstance(value, list | tuple) and depth < _DEPTH:
        return {"arrayValue": {"values": [_value(each, depth + 1) for each in value]}}
    return {"stringValue": _text(value)}


def _text(value: Any, printed: Callable[[Any], str] = repr) -> str:
    """How the value prints; that it cannot be printed is nothing that the agent should die of."""
    try:
        text = value if isinstance(value, str) else printed(value)
    except Exception as error:
        text = f"<{type(value).__name__} that cannot be printed: {type(error).__name__}>"
    return text[:MAX_TEXT].encode("utf-8", "backslashreplace").decode()


def _json(value: Any) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value, default=_text)
    except Exception:  # it holds itself, say, or another thread changes it
        return _text(value)


# --- sending ---------------------------------------------------------------------------------------


def otlp_endpoint(environment: Mapping[str, str]) -> tuple[str, dict[str, str]] | None:
    """URL and headers for traces as OpenTelemetry's variables name them; None if they do not."""
    url = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not url and (base := environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        url = base.rstrip("/") + "/v1/traces"
    if not url:
        return None
    general = environment.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    headers = environment.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or general
    pairs = (pair.split("=", 1) for pair in headers.split(",") if "=" in pair)
    return url, {name.strip(): urllib.parse.unquote(value.strip()) for name, value in pairs}


@functools.cache
def _target_of_environment() -> _Target | None:
    found = otlp_endpoint(os.environ)
    return _Target(found[0], tuple(found[1].items())) if found else None


class _Sender:
    """The queue and the thread that empties it; one a process."""

    def __init__(self) -> None:
        self.dropped = 0
        self._queue: deque[tuple[_Target, dict[str, Any]]] = deque()
        self._changed = threading.Condition()
        self._added = self._done = 0
        self._hurry = False
        self._away: _Target | None = None
        """It took nothing the last time, so it is asked once, not patiently."""
        self._thread: threading.Thread | None = None

    def add(self, target: _Target, span: dict[str, Any]) -> None:
        with self._changed:
            if len(self._queue) >= QUEUE_SPANS:
                self._drop(1, "more spans wait than may wait")
                return
            self._queue.append((target, span))
            self._added += 1
            if self._thread is None:
                _flush_as_a_child_ends()
                self._thread = threading.Thread(target=self._run, name="al_ray-tracing", daemon=True)
                self._thread.start()
            if len(self._queue) == _BATCH:
                self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        with self._changed:
            awaited = self._added
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._done >= awaited, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._hurry or len(self._queue) >= _BATCH, _EVERY)
                batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
                self._hurry = bool(self._queue) and self._hurry
            by_target: dict[_Target, list[dict[str, Any]]] = {}
            for target, span in batch:
                by_target.setdefault(target, []).append(span)
            for target, spans in by_target.items():
                try:
                    self._send(target, spans)
                except Exception as error:  # these spans' misfortune alone: the thread has others to send
                    self._drop(len(spans), _text(error))
            with self._changed:
                self._done += len(batch)
                self._changed.notify_all()

    def _send(self, target: _Target, spans: list[dict[str, Any]]) -> None:
        scope = {"scope": {"name": "al_ray.tracing"}, "spans": spans}
        body = json.dumps({"resourceSpans": [{"scopeSpans": [scope]}]}).encode()
        headers = {"Content-Type": "application/json", **dict(target.headers)}
        for tried in range(1 if target == self._away else _TRIES):
            try:
                request = urllib.request.Request(target.url, body, headers)
                with _opener.open(request, timeout=_TIMEOUT) as response:
                    answer = json.loads(response.read() or b"{}")
                partial = answer.get("partialSuccess") if isinstance(answer, dict) else None
                if isinstance(partial, dict) and partial.get("rejectedSpans"):
                    self._drop(int(partial["rejectedSpans"]), partial.get("errorMessage", "rejected"))
                self._away = None if self._away == target else self._away
                return
            except urllib.error.HTTPError as error:
                problem = f"{error.code} {_body(error)}"
                if error.code not in (429, 502, 503, 504):
                    break
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = str(error)
            time.sleep(0.2 * 2**tried)
        self._away = target
        self._drop(len(spans), problem)

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        _log.warning("%d spans were not kept (%d so far): %s", count, self.dropped, why)


def _body(error: urllib.error.HTTPError) -> str:
    """Its beginning, as far as it came."""
    try:
        return error.read(500).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return error.reason


def _flush_as_a_child_ends() -> None:
    """Where this process is one of ``multiprocessing``, for it may end without ``atexit``. Not as it is
    forked: after that ``multiprocessing`` forgets what is to be done at the end."""
    process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, flush, exitpriority=10)


# Without proxies: the gateway is where the agent's model is.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_sender = _Sender()


def _after_fork() -> None:
    """The child has neither the thread nor a say over the parent's spans."""
    global _sender
    _sender = _Sender()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(flush)
