"""What every route of the gateway shares: bodies that are read in time, failures in the API's shape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import web

from al_ray.actors.dialects.core import Failure, openai_error
from al_ray.actors.dialects.message_stream import error as anthropic_error
from al_ray.actors.dialects.messages import MESSAGES
from al_ray.errors import (
    AttemptEndedError,
    BadRequestError,
    ContextLengthError,
    EngineUnavailableError,
    HostedModelError,
)
from al_ray.types import JSON

_BODY_SECONDS: Final = 60.0
"""In which a body arrives."""

_JSON: Final = {"Content-Type": "application/json"}

_log = logging.getLogger(__name__)


async def read_body(request: web.Request) -> bytes:
    """Raises aiohttp's 413 for one that is too large, and 408 for one that does not come."""
    if request.content.is_eof():  # it came with the headers
        return await request.read()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body had not arrived after {_BODY_SECONDS:g} s") from None


def json_response(body: JSON, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=_JSON)


def failure(error: Exception) -> Failure:
    """What the agent is told of ``error``; our own faults are logged with their traceback instead."""
    match error:
        case ContextLengthError():
            return Failure(400, str(error), "context_length_exceeded")
        case BadRequestError():
            return Failure(400, str(error))
        case AttemptEndedError():
            return Failure(401, str(error))
        case HostedModelError():
            return Failure(error.status, error.message)
        case EngineUnavailableError():
            return Failure(503, str(error))
        case web.HTTPException():
            return Failure(error.status, error.text or error.reason)
    _log.error("a request failed", exc_info=error)
    return Failure(500, "the call failed inside the gateway; its log has the cause")


@web.middleware
async def failures_in_shape(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """A failed request is answered as its API answers failures."""
    try:
        return await handler(request)
    except Exception as error:
        told = failure(error)
        shape = anthropic_error if MESSAGES.path in request.path else openai_error
        response = json_response(shape(told), told.status)
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = error.headers["Allow"]
        return response
