"""The gateway's OpenAPI document: what it serves, what it reads of each body, how it answers.

The bodies are described by the models that read them. Paths may also stand behind ``/attempt/KEY``, and
without ``/v1``.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from al_ray.actors.gateway import otlp_receiver
from al_ray.actors.gateway.agent_reports import EVENTS, REWARDS, EventBody, RewardBody
from al_ray.actors.gateway.calls.engines import absences
from al_ray.actors.gateway.calls.models import MODEL, MODELS
from al_ray.actors.gateway.calls.recorded.earlier import RESPONSE
from al_ray.actors.gateway.dialects import DIALECTS
from al_ray.actors.gateway.dialects.messages import MESSAGES, PromptBody
from al_ray.actors.http import json_response

PATH: Final = "/openapi.json"

BODIES: Final[dict[str, type[BaseModel]]] = {
    **{dialect.path: dialect.body for dialect in DIALECTS},
    f"{MESSAGES.path}/count_tokens": PromptBody,
    REWARDS: RewardBody,
    EVENTS: EventBody,
}
"""The model that reads the body, by path."""
_FAILURES: Final = {
    "400": "The body is wrong, or the attempt has used up what it may; the message names the field.",
    "404": "There is nothing of that name.",
    "401": "The key is unknown, or its attempt has ended.",
    "413": "The body is too large.",
    "default": "Anything else that goes wrong.",
}
_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_OBJECT: Final = {"application/json": {"schema": {"type": "object"}}}
_EVENTS: Final[dict[str, Any]] = {"text/event-stream": {}}
_EXPORT: Final = {**_OBJECT, "application/x-protobuf": {"schema": {"type": "string", "format": "binary"}}}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT: Final = {"type": "string"}
_CODE: Final = {"type": ["string", "null"]}
_SCHEMAS: Final = {
    "OpenAIError": _object(error=_object(message=_TEXT, type=_TEXT, param={"type": "null"}, code=_CODE)),
    "AnthropicError": _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT)),
}


def document() -> dict[str, Any]:
    """As ``PATH`` serves it."""
    bodies, definitions = models_json_schema(  # together: two dialects may name a part alike
        [(model, "validation") for model in BODIES.values()], ref_template="#/components/schemas/{model}"
    )
    paths = {
        MODELS: {"get": {"summary": "The models.", "responses": _responses(MODELS, _OBJECT)}},
        MODEL: _one("A model.", "model"),
        RESPONSE: _one("A response that was answered.", "response"),
        otlp_receiver.PATH: {"post": _export()},
        absences.PATH: _public("When calls waited for an engine: how many seconds ago, from and to."),
        PATH: _public("This."),
    }
    for path, model in BODIES.items():
        schema = bodies[model, "validation"]
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        answer = _OBJECT | _EVENTS if "stream" in model.model_fields else _OBJECT
        paths[path] = {"post": {"requestBody": body, "responses": _responses(path, answer)}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "al_ray gateway", "version": "1"},
        "security": [{name: []} for name in _KEYS],
        "paths": paths,
        "components": {"schemas": _SCHEMAS | definitions["$defs"], "securitySchemes": _KEYS},
    }


async def serve(request: web.Request) -> web.Response:
    return json_response(document())


def _public(summary: str) -> dict[str, Any]:
    """What is told to whoever asks."""
    return {"get": {"summary": summary, "security": [], "responses": {"200": _told("It.", _OBJECT)}}}


def _one(summary: str, name: str) -> dict[str, Any]:
    """Something that is got by its name."""
    parameter = {"name": name, "in": "path", "required": True, "schema": _TEXT}
    return {"get": {"summary": summary, "parameters": [parameter], "responses": _responses("", _OBJECT)}}


def _export() -> dict[str, Any]:
    """OpenTelemetry's own API; the key may also be an attribute of the resource."""
    return {
        "summary": "OTLP over HTTP: an ExportTraceServiceRequest.",
        "security": [{}, *({name: []} for name in _KEYS)],
        "requestBody": {"required": True, "content": _EXPORT},
        "responses": {
            "200": _told("An ExportTraceServiceResponse; it counts the spans that were rejected.", _EXPORT),
            "default": _told("A Status.", _EXPORT),
        },
    }


def _responses(path: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Failures have the shape of the API they happen in."""
    name = "AnthropicError" if path.startswith(MESSAGES.path) else "OpenAIError"
    failed = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    failures = {status: _told(description, failed) for status, description in _FAILURES.items()}
    return {"200": _told("The answer.", answer), **failures}


def _told(description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": content}
