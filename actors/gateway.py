"""The gateway: the OpenAI-compatible endpoint that agents call.

It knows the attempt from the API key, decides the sampling, asks an engine, makes the call
durable in the store, and only then answers. While weights change or no engine is admitted,
requests wait; nobody is told to come back later. A call whose engine dies is asked again of
another one, from its prompt, unseen by the agent.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import orjson
from aiohttp import web
from ray.exceptions import RayActorError, RayError, RayTaskError

from al_ray import semconv
from al_ray.actors.chat_api import ChatBody, chat_chunk, chat_completion, parse_chat_body
from al_ray.errors import (
    AlRayError,
    AttemptEndedError,
    BadRequestError,
    ContextLengthError,
    EngineUnavailableError,
)
from al_ray.types import JSON, ChatDelta, ChatReply, ChatRequest, Claim, Mode, Sampling, Span, SpanKind

GATEWAY_OPTIONS: Final = {"num_cpus": 0, "max_concurrency": 10_000}
MAX_BODY_BYTES: Final = 16 * 2**20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """What a gateway serves. ``sampling`` is what calls of each mode are sampled with."""

    model: str
    sampling: Mapping[Mode, Sampling]
    seed: int
    host: str = "127.0.0.1"


class Gateway:
    """Make it an actor with ``GATEWAY_OPTIONS``; ``start`` returns the base URL that agents use."""

    def __init__(self, spec: GatewaySpec, store: Any) -> None:
        self._spec = spec
        self._store = store
        self._engines: list[Any] = []
        self._admitted = asyncio.Event()
        self._load: dict[Any, int] = {}
        self._home: dict[str, Any] = {}
        self._calls: dict[tuple[str, int], int] = {}
        self._recorder = _Recorder(store)
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Listen on a free port."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_as_json])
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._spec.host, 0)
        await site.start()
        port = self._runner.addresses[0][1]
        return f"http://{self._spec.host}:{port}/v1"

    async def stop(self) -> None:
        """Stop listening; requests under way are closed."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def admit(self, engines: Sequence[Any]) -> None:
        """Send calls to these engines from now on; with none, calls wait."""
        self._engines = list(engines)
        self._load = {engine: self._load.get(engine, 0) for engine in engines}
        if engines:
            self._admitted.set()
        else:
            self._admitted.clear()

    async def _models(self, request: web.Request) -> web.Response:
        await self._authorize(request)
        model = {"id": self._spec.model, "object": "model", "created": 0, "owned_by": "al_ray"}
        return _json({"object": "list", "data": [model]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        claim = await self._authorize(request)
        body = parse_chat_body(await request.read())
        call = _Call(f"chatcmpl-{uuid.uuid4().hex}", claim, body, self._sampling(claim, body), time.time())
        if body.stream:
            return await self._stream(request, call)
        reply = await self._ask(call)
        await self._recorder.record(_call_span(call, reply, self._spec.model))
        return _json(chat_completion(call.id, self._spec.model, reply))

    async def _stream(self, request: web.Request, call: _Call) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        async for piece in self._ask_streaming(call):
            if isinstance(piece, ChatReply):  # durable before the agent can see that the call is over
                await self._recorder.record(_call_span(call, piece, self._spec.model))
            if not response.prepared:
                await response.prepare(request)
            usage = call.body.include_usage
            for chunk in chat_chunk(call.id, self._spec.model, piece, include_usage=usage):
                await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _authorize(self, request: web.Request) -> Claim:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise AttemptEndedError("no API key: send the header 'Authorization: Bearer KEY'")
        return await _unwrapped(self._store.authorize.remote(key.strip()))

    def _sampling(self, claim: Claim, body: ChatBody) -> Sampling:
        """The recipe's distribution; the agent's own limits only where they are tighter."""
        pinned = self._spec.sampling[claim.request.mode]
        ended = (claim.attempt.rollout_id, claim.attempt.number)
        index = self._calls[ended] = self._calls.get(ended, -1) + 1
        name = f"{self._spec.seed}/{claim.request.id}/{claim.attempt.number}/{index}"
        digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
        wanted = body.limit or pinned.max_tokens
        return replace(
            pinned,
            max_tokens=min(wanted, pinned.max_tokens),
            stop=body.stop,
            n=body.n,
            seed=int.from_bytes(digest, "big") >> 1,
        )

    async def _ask(self, call: _Call) -> ChatReply:
        while True:
            engine = await self._pick(call.claim.request.id)
            self._load[engine] += 1
            try:
                return await _unwrapped(engine.chat.remote(call.request))
            except (RayActorError, EngineUnavailableError):
                self._drop(engine)
            finally:
                self._release(engine)

    async def _ask_streaming(self, call: _Call) -> AsyncIterator[ChatDelta | ChatReply]:
        started = False
        while True:
            engine = await self._pick(call.claim.request.id)
            self._load[engine] += 1
            try:
                pieces = engine.stream.options(num_returns="streaming").remote(call.request)
                async for reference in pieces:
                    yield await _unwrapped(reference)
                    started = True
                return
            except (RayActorError, EngineUnavailableError):
                self._drop(engine)
                if started:  # part of another answer is already with the agent
                    raise
            finally:
                self._release(engine)

    async def _pick(self, rollout_id: str) -> Any:
        """The engine that has the rollout's prefix in its cache, else the least loaded one."""
        await self._admitted.wait()
        home = self._home.get(rollout_id)
        if home not in self._load:
            home = self._home[rollout_id] = min(self._engines, key=lambda engine: self._load[engine])
        return home

    def _release(self, engine: Any) -> None:
        if engine in self._load:
            self._load[engine] -= 1

    def _drop(self, engine: Any) -> None:
        _log.warning("engine %s is gone; its calls are asked of another engine", engine)
        if engine in self._engines:
            self._engines.remove(engine)
            del self._load[engine]
        if not self._engines:
            self._admitted.clear()


@dataclass(frozen=True, slots=True)
class _Call:
    id: str
    claim: Claim
    body: ChatBody
    sampling: Sampling
    started: float

    @property
    def request(self) -> ChatRequest:
        return ChatRequest(self.id, self.body.messages, self.sampling, self.body.tools, self.body.tool_choice)


class _Recorder:
    """Appends spans to the store, many calls' spans in one message while the last one is under way."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._pending: list[tuple[Span, asyncio.Future[None]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def record(self, span: Span) -> None:
        """Returns when the span is durable. Raises ``AttemptEndedError`` if its attempt has ended."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((span, future))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        await future

    async def _send(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                outcomes = await self._store.append.remote([[span] for span, _ in batch])
            except RayActorError as error:
                outcomes = [error] * len(batch)
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.cancelled():
                    continue
                if outcome is None:
                    future.set_result(None)
                else:
                    future.set_exception(outcome)


def _call_span(call: _Call, reply: ChatReply, model: str) -> Span:
    sampling, body = call.sampling, call.body
    attributes: dict[str, JSON] = {
        semconv.OPERATION: "chat",
        semconv.REQUEST_MODEL: model,
        semconv.REQUEST_TEMPERATURE: sampling.temperature,
        semconv.REQUEST_TOP_P: sampling.top_p,
        semconv.REQUEST_MAX_TOKENS: sampling.max_tokens,
        semconv.ASKED_SAMPLING: body.asked,
        semconv.INPUT_MESSAGES: list(body.messages),
        semconv.OUTPUT_MESSAGES: [choice.message for choice in reply.choices],
        semconv.FINISH_REASONS: [choice.finish_reason for choice in reply.choices],
        semconv.INPUT_TOKENS: len(reply.prompt_ids),
        semconv.OUTPUT_TOKENS: sum(len(choice.response_ids) for choice in reply.choices),
        semconv.PROMPT_IDS: list(reply.prompt_ids),
        semconv.CHOICES: [
            {
                "ids": list(choice.response_ids),
                "logprobs": list(choice.logprobs),
                "versions": [list(asdict(span).values()) for span in choice.versions],
            }
            for choice in reply.choices
        ],
    }
    if body.tools:
        attributes[semconv.TOOL_DEFINITIONS] = list(body.tools)
    attempt = call.claim.attempt
    return Span(call.id, attempt.rollout_id, attempt.number, SpanKind.CALL, f"chat {model}",
                call.started, time.time(), attributes)  # fmt: skip


async def _unwrapped(reference: Any) -> Any:
    """Await an actor's answer; our own errors come back as themselves, not wrapped by Ray."""
    try:
        return await reference
    except RayTaskError as error:
        if isinstance(error.cause, AlRayError):
            raise error.cause from None
        raise


@web.middleware
async def _errors_as_json(request: web.Request, handler: Any) -> web.StreamResponse:
    """Every failure in the OpenAI error shape; our own faults are logged with their traceback."""
    try:
        return await handler(request)
    except ContextLengthError as error:
        return _error(400, str(error), "invalid_request_error", code="context_length_exceeded")
    except BadRequestError as error:
        return _error(400, str(error), "invalid_request_error")
    except AttemptEndedError as error:
        return _error(401, str(error), "authentication_error")
    except web.HTTPException as error:
        return _error(error.status, error.reason, "invalid_request_error")
    except (AlRayError, RayError):
        _log.exception("a call failed")
        return _error(500, "the call failed inside the gateway; its log has the cause", "server_error")


def _error(status: int, message: str, kind: str, code: str | None = None) -> web.Response:
    return _json({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)


def _json(body: JSON, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
