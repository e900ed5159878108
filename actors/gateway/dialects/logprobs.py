"""The log-probabilities of an answer's tokens, as the APIs tell them; which of the tokens its text has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from al_ray.actors.gateway.dialects.core import reasoning_of
from al_ray.types import JSON, TokenLogprob

_IMPOSSIBLE: Final = -9999.0


def told_logprob(value: float) -> float:
    """That of a token that could not be drawn is minus infinity, which JSON has not: as vLLM's own server."""
    return max(value, _IMPOSSIBLE)


def openai_logprobs(tokens: Iterable[TokenLogprob]) -> list[JSON]:
    """Of each token and the likeliest in its place, as OpenAI's two newer APIs tell them."""
    return [
        _logprob(token, token.token, token.logprob)
        | {"top_logprobs": [_logprob(token, text, value) for text, value in token.top]}
        for token in tokens
    ]


def _logprob(of: TokenLogprob, text: str, logprob: float) -> dict[str, JSON]:
    return {"token": text, "logprob": told_logprob(logprob), "bytes": list(of.bytes_of(text))}


class TextTokens:
    """Tells the tokens that an answer's text is made of from those of its thoughts, its calls and its end:
    of a whole message, or piece by piece as it streams."""

    def __init__(self) -> None:
        self._left: list[TokenLogprob] = []
        """Those of which nothing was told yet."""

    def of(self, told: Mapping[str, JSON], tokens: Sequence[TokenLogprob]) -> Sequence[TokenLogprob]:
        """The tokens of the text in the next piece, which came with ``tokens``. Where none spell it, as with
        a tokenizer that drops spaces, they are all those of which nothing else was told."""
        self._left += tokens
        text, thought = str(told.get("content") or ""), reasoning_of(told)
        if not text:
            if thought or told.get("tool_calls"):
                self._left = []
            return ()
        if thought:
            self._take(thought)
        found = self._take(text)
        if found is None:
            found, self._left = self._left, []
        return found

    def _take(self, text: str) -> list[TokenLogprob] | None:
        """The tokens that spell the text, though there be others between: from then on, they and what came
        before them are done with. None: it cannot be spelt."""
        spelt, place = text.encode("utf-8", "replace"), 0
        found: list[TokenLogprob] = []
        for count, token in enumerate(self._left, 1):
            raw = token.bytes_of(token.token)
            if raw.startswith(spelt[place : place + len(raw)]):  # the last may have been cut
                found.append(token)
                place += len(raw)
                if place >= len(spelt):
                    self._left = self._left[count:]
                    return found
        return None
