"""HTTP/1.1 for the one thing that a gateway asks of a server again and again: POST to one URL.

aiohttp's client took about a third of all the time that a gateway spends on a call. Of the libraries that
were tried in its place (pyreqwest, aiosonic, BlackSheep, curl_cffi) only pyreqwest was quicker with many
connections, and it did not hang up when its caller was cancelled. How messages are framed is llhttp's
business here, by httptools.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from al_ray.recipe import http_url

_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 600.0
"""Between two pieces of an answer."""
_IDLE_SECONDS: Final = 15.0
"""After which a connection is not used again: what stands between may have forgotten it."""
_MAX_AHEAD: Final = 2**20
"""Bytes of an answer that nobody has taken yet; then the server waits."""


class HttpClient:
    """Asks ``url``, with ``headers`` each time, over connections that are kept; any number at once.

    Proxies, redirects and compression are not known. Raises ``ValueError`` for what is no such URL, and for
    headers that would break the request.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(http_url(url))
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = str(parts.hostname), parts.port or (443 if self._tls else 80)
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        fields = {"Host": parts.netloc.rpartition("@")[2], **headers}
        lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        if not all(line.isascii() and line.isprintable() for line in lines):
            raise ValueError("the headers have characters that HTTP's cannot have")
        self._head = "".join(f"{line}\r\n" for line in lines).encode()
        self._idle: deque[_Connection] = deque()
        """The one that was used last stands last."""

    def post(self, body: bytes) -> HttpAnswer:
        """What comes back, once it is entered."""
        return HttpAnswer(self, b"%sContent-Length: %d\r\n\r\n%s" % (self._head, len(body), body))

    async def connection(self) -> _Connection:
        """One that is free, or a new one. Raises ``OSError`` if the server cannot be reached."""
        self._close_old()
        if self._idle:
            return self._idle.pop()
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, made = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), *self._address, ssl=self._tls
            )
        return made

    def keep(self, connection: _Connection) -> None:
        """For the next call."""
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        self._close_old()

    def _close_old(self) -> None:
        oldest = asyncio.get_running_loop().time() - _IDLE_SECONDS
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.popleft().close()

    def forget(self, connection: _Connection) -> None:
        """It is closed."""
        if connection in self._idle:
            self._idle.remove(connection)


class HttpAnswer:
    """A server's answer, from its headers on. Whoever leaves it before its end hangs up.

    Entering and reading it raise ``OSError`` if the server cannot be reached, hangs up, is silent for too
    long (``TimeoutError``) or speaks no HTTP.
    """

    def __init__(self, client: HttpClient, request: bytes) -> None:
        self.status = 0
        """Of HTTP, once it is known."""
        self.headers: dict[bytes, bytes] = {}
        """By their names in lower case, once the status is known."""
        self._client = client
        self._request = request
        self._connection: _Connection
        self._pieces: list[bytes] = []
        self._ahead = 0
        self._is_whole = False
        self._error: OSError | None = None
        self._news: asyncio.Future[None] | None = None

    async def __aenter__(self) -> HttpAnswer:
        while not self.status:
            self._connection = await self._client.connection()
            self._connection.ask(self, self._request)
            try:
                while not self.status:
                    await self._wait()
            except ConnectionError:
                if not self._connection.idle_since:
                    raise
                self._error = None  # the server had closed a kept connection just before it was asked
            except BaseException:
                self._connection.close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_whole:
            self._connection.close()

    async def read(self) -> bytes:
        """The body, as far as it was not taken yet."""
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def piece(self) -> bytes:
        """What there is of the body by now, at least a byte; empty at its end."""
        while not self._pieces and not self._is_whole:
            await self._wait()
        taken = b"".join(self._pieces)
        self._pieces.clear()
        if self._ahead > _MAX_AHEAD and not self._is_whole:  # else another may have the connection
            self._connection.resume()
        self._ahead = 0
        return taken

    async def _wait(self) -> None:
        """For news from the connection."""
        if self._error is not None:
            raise self._error
        loop = asyncio.get_running_loop()
        self._news = loop.create_future()
        # Quicker than asyncio.timeout.
        silence = loop.call_later(_READ_SECONDS, self.fail, TimeoutError("the server is silent"))
        try:
            await self._news
        finally:
            silence.cancel()

    # --- the news

    def begin(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.headers = headers
        self._tell()

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        if self._ahead <= _MAX_AHEAD < self._ahead + len(piece):
            self._connection.pause()
        self._ahead += len(piece)
        self._tell()

    def end(self) -> None:
        self._is_whole = True
        self._tell()

    def fail(self, error: OSError) -> None:
        self._error = error
        self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class _Connection(asyncio.Protocol):
    """To a server, with one question at a time."""

    def __init__(self, client: HttpClient) -> None:
        self.idle_since = 0.0
        """By the event loop's clock; 0 until it has answered."""
        self._client = client
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser
        self._answer: HttpAnswer | None = None
        self._ends_by_itself = False
        self._headers: dict[bytes, bytes] = {}

    def ask(self, answer: HttpAnswer, request: bytes) -> None:
        self._answer = answer
        self._ends_by_itself = False
        self._headers = {}
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)

    def close(self) -> None:
        """At once, whatever is under way."""
        self._answer = None
        self._transport.abort()

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    # --- asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nothing was asked
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._answer.fail(ConnectionError(f"the server does not speak HTTP/1.1: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._client.forget(self)
        if self._answer is None:
            return
        if self._answer.status and not self._ends_by_itself and error is None:
            self._answer.end()  # HTTP/1.0's way
        else:
            self._answer.fail(ConnectionError(f"the server hung up{f': {error}' if error else ''}"))

    # --- and the parser these

    def on_message_begin(self) -> None:
        if self._answer is None:  # one more than was asked for
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._headers[name] = value
        if name in (b"content-length", b"transfer-encoding"):
            self._ends_by_itself = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._answer is not None and status >= HTTPStatus.OK:  # others announce what is to come
            self._answer.begin(status, self._headers)

    def on_body(self, body: bytes) -> None:
        if self._answer is not None:
            self._answer.add(body)

    def on_message_complete(self) -> None:
        if self._answer is None or not self._answer.status:
            return
        self._answer.end()
        self._answer = None
        if self._parser.should_keep_alive():
            self.resume()  # the last that came may have been more than is taken
            self._client.keep(self)
        else:
            self._transport.close()
