"""The gateway's OpenAPI document: what it reads of each body, and the shape of its failures."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel

from al_ray.actors.agent_reports import EVENTS, REWARDS, EventBody, RewardBody
from al_ray.actors.dialects import DIALECTS
from al_ray.actors.dialects.messages import MESSAGES, PromptBody
from al_ray.actors.http import json_response

PATH: Final = "/openapi.json"

_BODIES: Final[dict[str, type[BaseModel]]] = {
    **{dialect.path: dialect.body for dialect in DIALECTS},
    f"{MESSAGES.path}/count_tokens": PromptBody,
    REWARDS: RewardBody,
    EVENTS: EventBody,
}
_FAILURES: Final = {
    "400": "The body is wrong, or the attempt has used up what it may; the message names the field.",
    "401": "The key is unknown, or its attempt has ended.",
    "413": "The body is too large.",
}
_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def document() -> dict[str, Any]:
    """Paths may also stand behind ``/attempt/KEY``."""
    schemas: dict[str, Any] = {}
    paths = {"/v1/models": {"get": {"responses": _responses("401")}}}
    for path, model in _BODIES.items():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        content = {"application/json": {"schema": schema}}
        body = {"required": True, "content": content}
        paths[path] = {"post": {"requestBody": body, "responses": _responses(*_FAILURES)}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "al_ray gateway", "version": "1"},
        "security": [{name: []} for name in _KEYS],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _KEYS},
    }


async def serve(request: web.Request) -> web.Response:
    return json_response(document())


def _responses(*failures: str) -> dict[str, Any]:
    told = {status: {"description": _FAILURES[status]} for status in failures}
    return {"200": {"description": "The answer."}, **told}
