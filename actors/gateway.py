"""The gateway: the OpenAI-compatible endpoint that agents call.

It knows the attempt from the API key, decides the sampling, asks an engine, makes the call
durable in the store, and only then answers. While weights change or no engine is admitted,
requests wait; nobody is told to come back later. A call whose client hangs up is given up: what
no agent saw is not recorded.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
from aiohttp import web

from al_ray.actors.call_recorder import Call, CallRecorder
from al_ray.actors.chat_api import ChatBody, ReplyHead, chat_chunks, chat_completion, parse_chat_body
from al_ray.actors.engine_router import ROLLOUTS_REMEMBERED, EngineRouter
from al_ray.actors.otlp_receiver import OtlpReceiver
from al_ray.actors.ray_errors import unwrapped
from al_ray.actors.recent import Recent
from al_ray.errors import AttemptEndedError, BadRequestError, ContextLengthError
from al_ray.otlp import Owner, trace_context
from al_ray.types import JSON, Attempt, ChatReply, Claim, Mode, Sampling

GATEWAY_OPTIONS: Final = {"num_cpus": 0, "max_concurrency": 10_000}
MAX_BODY_BYTES: Final = 16 * 2**20
_HOST: Final = "127.0.0.1"
"""Loopback: runners are placed beside the gateway, and nobody else has business here."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """What a gateway serves. ``sampling`` is what calls of each mode are sampled with."""

    model: str
    sampling: Mapping[Mode, Sampling]
    seed: int
    collector_key: str | None = None
    """Of a collector that sends the spans of many attempts; it may name the attempt."""


class Gateway:
    """Make it an actor with ``GATEWAY_OPTIONS``; ``start`` returns the base URL that agents use."""

    def __init__(self, spec: GatewaySpec, store: Any) -> None:
        self._spec = spec
        self._store = store
        self._router = EngineRouter()
        self._recorder = CallRecorder(store)
        self._calls: Recent[tuple[str, int], int] = Recent(ROLLOUTS_REMEMBERED)
        """How many calls an attempt has made."""

    async def start(self) -> str:
        """Listen on a free port."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_as_json])
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.add_routes(OtlpReceiver(self._store, self._spec.collector_key).routes())
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, _HOST, 0).start()
        return f"http://{_HOST}:{runner.addresses[0][1]}/v1"

    async def admit(self, engines: Sequence[Any]) -> None:
        """Send calls to these engines from now on; with none, calls wait."""
        self._router.admit(engines)

    async def _models(self, request: web.Request) -> web.Response:
        await self._authorize(request)
        model = {"id": self._spec.model, "object": "model", "created": 0, "owned_by": "al_ray"}
        return _json({"object": "list", "data": [model]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        claim = await self._authorize(request)
        body = parse_chat_body(await request.read())
        call = Call(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            attempt=claim.attempt,
            model=self._spec.model,
            body=body,
            sampling=self._sampling(claim, body),
            started=time.time(),
            trace=_trace(request, claim.attempt),
        )
        if body.stream:
            return await self._stream(request, call)
        reply = await self._router.chat(call.attempt.rollout_id, call.request)
        await self._recorder.record(call, reply)
        return _json(chat_completion(_head(call), reply))

    async def _stream(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Server-sent events. The headers leave with the first piece, so what fails before it is answered
        with a status; what fails after it, with an event."""
        head = _head(call)
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        try:
            async with aclosing(self._router.stream(call.attempt.rollout_id, call.request)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, ChatReply):  # durable before the agent can see that the call is over
                        await self._recorder.record(call, piece)
                    if not response.prepared:
                        await response.prepare(request)
                    for chunk in chat_chunks(head, piece, include_usage=call.body.include_usage):
                        await response.write(_event(orjson.dumps(chunk)))
            await response.write(_event(b"[DONE]"))
        except ConnectionResetError:
            _log.debug("the client of call %s hung up", call.id)
        except Exception as error:
            if not response.prepared:
                raise
            await response.write(_event(orjson.dumps(_problem(error).body)))
        return response

    async def _authorize(self, request: web.Request) -> Claim:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise AttemptEndedError("no API key: send the header 'Authorization: Bearer KEY'")
        with unwrapped():
            return await self._store.authorize.remote(key.strip())

    def _sampling(self, claim: Claim, body: ChatBody) -> Sampling:
        """The recipe's distribution; the agent's own limits only where they are tighter."""
        pinned = self._spec.sampling[claim.request.mode]
        return replace(
            pinned,
            max_tokens=min(body.limit or pinned.max_tokens, pinned.max_tokens),
            stop=body.stop,
            n=body.n,
            seed=self._seed(claim.attempt),
        )

    def _seed(self, attempt: Attempt) -> int:
        """Another one for each call, but the same in every run of the recipe: 31 bits."""
        key = (attempt.rollout_id, attempt.number)
        index = self._calls[key] = self._calls.get(key, -1) + 1
        name = f"{self._spec.seed}/{attempt.rollout_id}/{attempt.number}/{index}"
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class _Problem:
    """A failure in the OpenAI error shape."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None

    @property
    def body(self) -> dict[str, JSON]:
        return {"error": {"message": self.message, "type": self.type, "param": None, "code": self.code}}


def _problem(error: Exception) -> _Problem:
    """What the agent is told of ``error``; our own faults are logged with their traceback instead."""
    match error:
        case ContextLengthError():
            return _Problem(400, str(error), code="context_length_exceeded")
        case BadRequestError():
            return _Problem(400, str(error))
        case AttemptEndedError():
            return _Problem(401, str(error), "authentication_error", "invalid_api_key")
        case web.HTTPException():
            return _Problem(error.status, error.text or error.reason)
    _log.error("a call failed", exc_info=error)
    return _Problem(500, "the call failed inside the gateway; its log has the cause", "server_error")


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:
        problem = _problem(error)
        return _json(problem.body, problem.status)


def _trace(request: web.Request, attempt: Attempt) -> Mapping[str, JSON]:
    """Where in the agent's own trace the call was made, if its HTTP client tells."""
    return trace_context(request.headers.get("traceparent", ""), Owner(attempt.rollout_id, attempt.number))


def _head(call: Call) -> ReplyHead:
    return ReplyHead(call.id, call.model, int(call.started))


def _json(body: JSON, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
