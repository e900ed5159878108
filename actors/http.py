"""Bodies of HTTP requests, read in time, answers in JSON, and where servers are found."""

from __future__ import annotations

import asyncio
from typing import Final

import orjson
import ray
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError

from al_ray.errors import BadRequestError
from al_ray.types import JSON

LOOPBACK: Final = "127.0.0.1"
_BODY_SECONDS: Final = 60.0
"""In which a body arrives."""

_JSON: Final = {"Content-Type": "application/json"}


async def read_body(request: web.Request) -> bytes:
    """Raises aiohttp's 413 for one that is too large, and 408 for one that does not come; ``BadRequestError``
    for one that is not compressed as it says."""
    try:
        if request.content.is_eof():  # it came with the headers
            return await request.read()
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except (web.RequestPayloadError, ContentEncodingError) as error:
        raise BadRequestError(f"the body cannot be read as its headers say: {error}") from None
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body had not arrived after {_BODY_SECONDS:g} s") from None


def json_response(body: JSON, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=_JSON)


def reachable(host: str) -> str:
    """The address for clients of a server on this node that listens at ``host``, which may mean all of the
    node's addresses."""
    return ray.util.get_node_ip_address() if host in ("0.0.0.0", "::") else host
