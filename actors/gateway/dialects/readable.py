"""What the trained model can read: text. What an agent sends besides is refused rather than left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from al_ray.actors.gateway.dialects.fields import NOT_TEXT, Does
from al_ray.actors.gateway.dialects.fields.chat_completions import CHAT_COMPLETIONS_FIELDS
from al_ray.traces.messages import Message

_ROLES: Final = CHAT_COMPLETIONS_FIELDS["messages"]
_TEXTS: Final = frozenset(("text", "refusal", "input_text", "output_text", "thinking"))
"""The types of what vLLM takes for text."""


def unreadable(messages: Sequence[Message]) -> str | None:
    """The first thing that the model could not be shown, and what to do instead."""
    for place, message in enumerate(messages):
        role = _ROLES.get(str(message.get("role")))
        if role is not None and role.does is Does.REFUSED:
            return f"messages.{place}.role: {message['role']}: {role.told}"
        content = message.get("content")
        if not isinstance(content, list):
            continue
        for index, part in enumerate(content):
            if isinstance(part, Mapping) and not _is_text(part):
                kind = part.get("type") or next(iter(part), "nothing")
                return f"messages.{place}.content.{index}: {kind}: {NOT_TEXT.told}"
    return None


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") in _TEXTS or ("type" not in part and "text" in part)
