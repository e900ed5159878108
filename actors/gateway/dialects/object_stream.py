"""OpenAI's streams of objects: chunks that each tell of one choice, the usage if asked for, ``[DONE]``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from al_ray.actors.gateway.dialects.core import Asked, Body, Failure, Head, event, openai_error, openai_usage
from al_ray.types import JSON, ChatDelta, ChatReply, Choice


class StreamOptions(Body):
    include_usage: bool | None = None


class ObjectStream(ABC):
    """``kind`` is the objects' own name."""

    kind: str

    def __init__(self, head: Head, asked: Asked) -> None:
        self._start = head.object(self.kind)
        self._asked = asked

    def begin(self) -> Iterable[bytes]:
        return ()

    @abstractmethod
    def piece(self, delta: ChatDelta) -> Iterable[bytes]: ...

    def end(self, answer: ChatReply) -> Iterable[bytes]:
        for choice in answer.choices:
            yield self._chunk(self._last(choice))
        if self._asked.include_usage:
            yield event(self._start | {"choices": [], "usage": openai_usage(answer)})
        yield b"data: [DONE]\n\n"

    def fail(self, failure: Failure) -> Iterable[bytes]:
        yield event(openai_error(failure))

    @abstractmethod
    def _last(self, choice: Choice) -> JSON:
        """The choice as the chunk that ends it tells it."""

    def _chunk(self, choice: JSON) -> bytes:
        return event(self._start | {"choices": [choice]})
