"""The APIs that agents speak to the gateway, one module each, as a table over one core.

A call's way takes ``DIALECTS`` and knows the words of ``core``; ``fields`` is what is read of each body."""

from al_ray.actors.gateway.dialects.chat_completions import CHAT_COMPLETIONS
from al_ray.actors.gateway.dialects.completions import COMPLETIONS
from al_ray.actors.gateway.dialects.core import Dialect
from al_ray.actors.gateway.dialects.messages import MESSAGES
from al_ray.actors.gateway.dialects.responses import RESPONSES

DIALECTS: tuple[Dialect, ...] = (CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, MESSAGES)

__all__ = ["DIALECTS", "Dialect"]
