"""Calls that engines die of: found, and never asked again.

An engine's death does not say which of its calls it died of. All of them are asked again. Of those that have
lost two engines, one that was alone in that is the cause; where there are several, they are asked one
after the other from then on, so that the next engine that dies tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

import orjson

from al_ray.actors.recent import Recent
from al_ray.errors import BadRequestError
from al_ray.types import ChatRequest, CompletionRequest, Sampling

_REMEMBERED: Final = 1000
_MOST: Final = 1
"""Engines that a call may lose before it is suspected."""


@dataclass(eq=False, slots=True)
class Question:
    """What an engine is asked, until it is answered."""

    content: Any
    lost: int = 0
    """Engines that died meanwhile."""

    def digest(self) -> bytes:
        """The same when it is asked anew, by another attempt or with other sampling."""
        content = self.content
        if isinstance(content, ChatRequest):
            content = replace(content, id="", attempt=None, sampling=_ANY)
        elif isinstance(content, CompletionRequest):
            content = replace(content, id="", sampling=_ANY)
        return blake2b(orjson.dumps(content), digest_size=16).digest()


_ANY: Final = Sampling()


class DeadlyQuestions:
    """Those that this gateway has found."""

    def __init__(self) -> None:
        self._found: Recent[bytes, None] = Recent(_REMEMBERED)
        self._alone = asyncio.Lock()

    def turn(self, question: Question) -> AbstractAsyncContextManager[object]:
        """To be entered while it is asked, by one that is suspected alone."""
        return self._alone if question.lost > _MOST else nullcontext()

    def refuse(self, question: Question) -> None:
        """Raises ``BadRequestError`` if it may never be asked; to be asked when its turn has come."""
        if self._found and question.digest() in self._found:
            raise BadRequestError(
                "engines died, one after the other, while they worked on this call; it is not asked again"
            )

    def engine_died(self, questions: Collection[Question]) -> None:
        """It was working on ``questions``."""
        for question in questions:
            question.lost += 1
        suspects = [question for question in questions if question.lost > _MOST]
        if len(suspects) == 1:
            self._found[suspects[0].digest()] = None
