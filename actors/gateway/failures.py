"""What an agent is told of a request that failed, in the shape of its API."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from al_ray.actors.gateway.dialects.core import Failure, openai_error
from al_ray.actors.gateway.dialects.message_stream import error as anthropic_error
from al_ray.actors.http import json_response
from al_ray.errors import (
    AttemptEndedError,
    BadRequestError,
    ContextLengthError,
    EngineUnavailableError,
    HostedModelError,
)

_ANTHROPICS: Final = "/messages"
"""In the paths of Anthropic's API, with its version and without."""

_log = logging.getLogger(__name__)


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
            return Failure(error.status, error.message, error.code, error.retry_after)
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
        shape = anthropic_error if _ANTHROPICS in request.path else openai_error
        response = json_response(shape(told), told.status)
        if told.retry_after is not None:
            response.headers["Retry-After"] = told.retry_after
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = error.headers["Allow"]
        if request.content.exception() is not None:  # what comes after such a body cannot be read either
            response.force_close()
        return response
