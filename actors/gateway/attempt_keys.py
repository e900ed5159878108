"""Which attempt a request belongs to."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web

from al_ray.actors.coalescer import Coalescer
from al_ray.actors.recent import Recent
from al_ray.database.reader import Records
from al_ray.database.writer import KEY_PREFIX
from al_ray.errors import AttemptEndedError
from al_ray.types import Claim

KEY_IN_PATH: Final = "/attempt/{key}"
"""Before the path of any route: for agents whose API key cannot be set."""

_KNOWN_SECONDS: Final = 1.0
_KEY: Final = re.compile(r"[!-~]{1,200}")
"""What a key may look like. Databases refuse other texts, and many keys are looked up in one question."""


class AttemptKeys:
    """Looks up whose key a request carries, and remembers the answer for a moment.

    A key that was ended in that moment is still refused when the call is recorded, before its agent
    sees the answer. What is not recorded, or is shown before that, asks for ``now``.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._ask: Coalescer[str, Claim] = Coalescer(self._authorize)
        self._known: Recent[str, tuple[float, Claim]] = Recent(10_000)

    async def claim(self, request: web.Request, *, now: bool = False) -> Claim:
        """The running attempt that the request belongs to. Raises ``AttemptEndedError``."""
        key = key_of(request)
        if not key:
            raise AttemptEndedError(
                "no API key: send the header 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            )
        asked, claim = self._known.get(key, (-_KNOWN_SECONDS, None))
        moment = time.monotonic()
        if claim is None or now or moment - asked > _KNOWN_SECONDS:
            self._known.pop(key, None)
            claim = await self.of(key)
            self._known[key] = moment, claim
        return claim

    async def of(self, key: str) -> Claim:
        """The running attempt that has this key now. Raises ``AttemptEndedError``."""
        if not _KEY.fullmatch(key):
            raise AttemptEndedError("the API key is none of ours: it has other characters, or too many")
        return await self._ask(key)

    async def _authorize(self, keys: list[str]) -> Sequence[Claim | AttemptEndedError]:
        return await asyncio.to_thread(self._records.authorize, keys)


def key_of(request: web.Request) -> str:
    """The key that the request carries, that of its path first; empty if it has none. A client may send a
    key of its own beside an attempt's: that one does not count."""
    first = ""
    for told in _KEYS:
        key = told(request)
        if key.startswith(KEY_PREFIX):
            return key
        first = first or key
    return first


def _bearer(request: web.Request) -> str:
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else ""


_KEYS: Final[Sequence[Callable[[web.Request], str]]] = (
    lambda request: request.match_info.get("key", ""),
    _bearer,
    lambda request: request.headers.get("x-api-key", "").strip(),
)
