"""Searching: in the paragraphs that a task brings, or by asking a retrieval service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import aiohttp

from al_ray.retrieval.bm25 import Bm25
from al_ray.retrieval.vocabulary import Vocabulary

PATIENCE = 60.0
"""Seconds that a service may be away or fail, as it does while it is started anew."""
_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
"""How it is noticed that it is away, or went in the midst of an answer."""


class Search(Protocol):
    """Finds passages: ``id``, ``title`` and ``text`` of each, the best first."""

    async def __call__(self, query: str, k: int, /) -> Sequence[Mapping[str, Any]]: ...


class ParagraphSearch:
    """BM25 over the paragraphs of one task."""

    def __init__(self, paragraphs: Sequence[Mapping[str, Any]]) -> None:
        self._paragraphs = paragraphs
        self._words = Vocabulary()
        documents = [self._words.learn(f"{p['title']} {p['text']}") for p in paragraphs]
        self._index = Bm25.build(documents, len(self._words))

    async def __call__(self, query: str, k: int) -> Sequence[Mapping[str, Any]]:
        (ranking,) = self._index.search([self._words.look_up(query)], k)
        return [self._paragraphs[position] for position, _ in ranking]


class ServiceSearch:
    """A service at a URL that takes ``{"query", "k"}``."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __call__(self, query: str, k: int) -> Sequence[Mapping[str, Any]]:
        """Raises ``ConnectionError`` when the service is away or fails for ``PATIENCE``: that is nobody's
        wrong answer. What it refuses is raised at once."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await self._ask({"query": query, "k": k})
            except (*_BROKEN, aiohttp.ClientResponseError) as error:
                if isinstance(error, aiohttp.ClientResponseError) and error.status < 500:
                    raise
                if time.monotonic() > deadline:
                    raise ConnectionError(f"retrieval at {self._url} gives no answer: {error!r}") from error
                await asyncio.sleep(0.5)

    async def _ask(self, question: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        async with aiohttp.ClientSession() as session, session.post(self._url, json=question) as response:
            response.raise_for_status()
            return (await response.json())["passages"]
