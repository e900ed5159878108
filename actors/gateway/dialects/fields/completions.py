"""OpenAI's completions."""

from __future__ import annotations

from typing import Final

from al_ray.actors.gateway.dialects.fields import Api, refused, taken
from al_ray.actors.gateway.dialects.fields.chat_completions import SAMPLED

COMPLETIONS_FIELDS: Final[Api] = {
    "request": {
        **SAMPLED,
        "model": taken("the trained model, by any name; hosted ones take messages alone"),
        "prompt": taken("one, as text or as token ids"),
        "logprobs": taken("up to 5 alternatives of each token"),
        "best_of": refused("answers are not compared; send n and choose", 0, 1),
        "echo": refused("the prompt is not repeated in the answer; leave it out", False),
        "suffix": refused("text is not inserted before other text; leave it out", ""),
    },
}
