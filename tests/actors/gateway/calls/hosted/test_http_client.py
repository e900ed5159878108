"""The client of hosted models against real sockets, whatever a server does with them."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.actors.gateway.calls.hosted import http_client
from al_ray.actors.gateway.calls.hosted.http_client import HttpClient

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

BODY = b"x" * 70 + b"\r\n\r\n" + b"y" * 30
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4B\r\n%s\r\n1D;name=value\r\n%s\r\n0\r\nTrailer: 1\r\n\r\n" % (BODY[:75], BODY[75:])
)
ANNOUNCED = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + WHOLE
UNTIL_THE_END = b"HTTP/1.0 200 OK\r\n\r\n" + BODY


async def question(reader: asyncio.StreamReader) -> bytes:
    """A whole request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


@asynccontextmanager
async def server(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The URL of one that does ``serve`` with each connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        yield f"http{'s' if tls else ''}://localhost:{port}/v1/chat?version=1"


@dataclass
class Answering:
    """A server that answers ``times`` questions of a connection, reads one more, and ends it."""

    says: bytes
    times: int = 1000
    reads_on: bool = True
    connections: int = 0
    asked: list[bytes] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        for _ in range(self.times):
            self.asked.append(await question(reader))
            writer.write(self.says)
        if self.reads_on:
            await question(reader)


async def ask(client: HttpClient, body: bytes = b"hello") -> bytes:
    async with client.post(body) as answer:
        return await answer.read()


@given(
    raw=st.sampled_from([WHOLE, CHUNKED, ANNOUNCED, UNTIL_THE_END]),
    cuts=st.lists(st.integers(1, 400), max_size=12),
)
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(raw: bytes, cuts: list[int]) -> None:
    """The pieces are given to the connection itself: sockets would join them."""
    transport = Transport()

    async def answered() -> bytes:
        client = HttpClient("http://localhost/v1", {})
        connection = http_client._Connection(client)
        connection.connection_made(transport)
        client.keep(connection)
        reading = asyncio.create_task(ask(client))
        await asyncio.sleep(0)
        bounds = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
        for start, end in itertools.pairwise(bounds):
            connection.data_received(raw[start:end])
            await asyncio.sleep(0)
        if raw is UNTIL_THE_END:
            connection.connection_lost(None)
        return await reading

    assert asyncio.run(answered()) == BODY
    assert transport.sent == b"POST /v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass


async def test_a_request_says_what_it_should_and_its_connection_is_kept() -> None:
    serve = Answering(CHUNKED)
    async with server(serve) as url:
        client = HttpClient(url, {"Authorization": "Bearer k"})
        assert [await ask(client) for _ in range(3)] == [BODY] * 3
        assert serve.connections == 1
        assert await asyncio.gather(*(ask(client) for _ in range(5))) == [BODY] * 5
        assert serve.connections == 5
    host = url.removeprefix("http://").partition("/")[0]
    assert (
        serve.asked[0]
        == (
            f"POST /v1/chat?version=1 HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer k\r\n"
            "Content-Length: 5\r\n\r\nhello"
        ).encode()
    )


@pytest.mark.parametrize(
    "says", [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", UNTIL_THE_END]
)
async def test_a_connection_that_the_server_ends_is_not_used_again(says: bytes) -> None:
    serve = Answering(says, times=1, reads_on=False)
    async with server(serve) as url:
        client = HttpClient(url, {})
        assert [await ask(client) for _ in range(3)] == [says.partition(b"\r\n\r\n")[2]] * 3
    assert serve.connections == 3


async def test_a_kept_connection_that_breaks_when_it_is_asked_is_replaced() -> None:
    """Its server had given it up in the same moment."""
    serve = Answering(WHOLE, times=1)
    async with server(serve) as url:
        client = HttpClient(url, {})
        assert [await ask(client) for _ in range(3)] == [BODY] * 3
    assert serve.connections == 3


async def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Answering(WHOLE)
    async with server(serve) as url:
        client = HttpClient(url, {})
        await ask(client)
        monkeypatch.setattr(http_client, "_IDLE_SECONDS", 0.0)
        await ask(client)
    assert serve.connections == 2


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (b"", "the server hung up"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "the server hung up"),
        (WHOLE[:-1], "the server hung up"),
        (CHUNKED[:-20], "the server hung up"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP/1.1"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "does not speak HTTP/1.1",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n", "does not speak HTTP/1.1"),
    ],
)
async def test_a_server_that_breaks_off_or_speaks_otherwise_is_an_error(says: bytes, told: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(says)

    async with server(serve) as url:
        with pytest.raises(ConnectionError, match=told):
            await ask(HttpClient(url, {}))


async def test_a_server_that_is_not_there_is_an_error() -> None:
    for url in ("http://127.0.0.1:1/v1", "http://no.such.host.invalid/v1"):
        with pytest.raises(OSError, match=r"."):
            await ask(HttpClient(url, {}))


@pytest.mark.parametrize("says", [b"", WHOLE[:-1]])
async def test_silence_is_an_error_after_a_while_and_hangs_up(
    says: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "_READ_SECONDS", 0.2)
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(says)
        try:
            await reader.read(1)
        finally:
            gone.set()

    async with server(serve) as url:
        with pytest.raises(TimeoutError):
            await ask(HttpClient(url, {}))
        await asyncio.wait_for(gone.wait(), 60)


@pytest.mark.parametrize("says", [b"", CHUNKED[:-20]])
async def test_who_is_cancelled_hangs_up(says: bytes) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(says)
        asked.set()
        try:
            await reader.read(1)
        finally:
            gone.set()

    async with server(serve) as url:
        asking = asyncio.create_task(ask(HttpClient(url, {})))
        await asked.wait()
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(gone.wait(), 60)


async def test_a_server_that_says_more_than_is_taken_has_to_wait() -> None:
    """So that what waits here stays bounded."""
    size, sent = 64 * 2**20, 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await question(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"z" * 2**16)
            sent += 2**16
            await writer.drain()

    async with server(serve) as url, HttpClient(url, {}).post(b"") as answer:
        before = -1
        while before < sent:  # until it waits
            before = sent
            await asyncio.sleep(0.2)
        assert sent < size / 2
        assert len(await answer.read()) == size


async def test_a_connection_whose_last_answer_was_not_taken_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its agent may have hung up when all of it was here."""
    monkeypatch.setattr(http_client, "_MAX_AHEAD", len(BODY) - 1)
    serve = Answering(WHOLE)
    async with asyncio.timeout(60), server(serve) as url:
        client = HttpClient(url, {})
        async with client.post(b"hello"):
            while not client._idle:
                await asyncio.sleep(0.01)
        assert await ask(client) == BODY
    assert serve.connections == 1


async def test_what_nobody_asked_for_ends_the_connection() -> None:
    twice = Answering(WHOLE + WHOLE)
    async with server(twice) as url:
        client = HttpClient(url, {})
        assert [await ask(client) for _ in range(2)] == [BODY] * 2
    assert twice.connections == 2


async def test_a_certificate_must_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    async with server(Answering(WHOLE), tls) as url:
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(HttpClient(url, {}))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await ask(HttpClient(url, {})) == BODY


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer k\r\nX: y"}, {"Authorization": "Bearer schlüssel"}]
)
def test_headers_that_would_break_the_request_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="the headers have characters"):
        HttpClient("http://localhost/v1", headers)
