"""The models that agents may name, listed as OpenAI's clients and Anthropic's read it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from al_ray.actors.gateway.attempt_keys import AttemptKeys
from al_ray.actors.http import json_response
from al_ray.types import JSON

MODELS: Final = "/v1/models"
MODEL: Final = f"{MODELS}/{{model}}"


@dataclass(frozen=True, slots=True)
class ModelList:
    """The trained model and the hosted ones."""

    keys: AttemptKeys
    names: Collection[str]

    def routes(self) -> list[web.RouteDef]:
        return [web.get(MODELS, self._all), web.get(MODEL, self._one)]

    async def _all(self, request: web.Request) -> web.Response:
        await self.keys.claim(request, now=True)
        models = [_model(name) for name in self.names]
        ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"], "has_more": False}
        return json_response({"object": "list", "data": models, **ends})

    async def _one(self, request: web.Request) -> web.Response:
        await self.keys.claim(request, now=True)
        name = request.match_info["model"]
        if name not in self.names:
            raise web.HTTPNotFound(text=f"there is no model {name!r}, but {', '.join(self.names)}")
        return json_response(_model(name))


def _model(name: str) -> dict[str, JSON]:
    """OpenAI's object and Anthropic's at once."""
    openai = {"id": name, "object": "model", "created": 0, "owned_by": "al_ray"}
    return openai | {"type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
