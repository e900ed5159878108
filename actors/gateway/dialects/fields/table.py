"""The whole table, by the path of each API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from al_ray.actors.gateway.dialects.fields import Api
from al_ray.actors.gateway.dialects.fields.chat_completions import CHAT_COMPLETIONS_FIELDS
from al_ray.actors.gateway.dialects.fields.completions import COMPLETIONS_FIELDS
from al_ray.actors.gateway.dialects.fields.messages import COUNT_FIELDS, MESSAGES_FIELDS
from al_ray.actors.gateway.dialects.fields.responses import RESPONSES_FIELDS

TABLE: Final[Mapping[str, Api]] = {
    "/v1/chat/completions": CHAT_COMPLETIONS_FIELDS,
    "/v1/completions": COMPLETIONS_FIELDS,
    "/v1/responses": RESPONSES_FIELDS,
    "/v1/messages": MESSAGES_FIELDS,
    "/v1/messages/count_tokens": COUNT_FIELDS,
}
