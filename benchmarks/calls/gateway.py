"""What the gateway adds to a call, beside a mock upstream called directly and LiteLLM's proxy.

    python -m benchmarks.calls.gateway [--rounds 3] [--seconds 4] [--side-by-side 1] [--without-litellm]

The mock answers at once with 300 prompt and 40 response token ids. It is asked five ways, by 1, 10 and
64 connections, in one run: directly; through the gateway as an engine, with the tokens recorded durably
in the real store; likewise, streamed in 40 pieces; through the gateway as a hosted model, recorded durably
too; and through LiteLLM's proxy, which records nothing. A machine's speed wanders, so each way is asked in
turn, for some rounds; medians of the rounds are shown. LiteLLM is installed into a virtual environment of its
own. There are as many gateways as workers of LiteLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from al_ray.actors.line import OnLine

ROOT = Path(__file__).resolve().parents[2]
PROMPT_IDS = list(range(1000, 1300))
RESPONSE_IDS = list(range(2000, 2040))
LOGPROBS = [-0.123456789] * len(RESPONSE_IDS)
TEXT = "word " * len(RESPONSE_IDS)
MESSAGES = [{"role": "user", "content": "word " * len(PROMPT_IDS)}]
CONNECTIONS = (1, 10, 64)
LITELLM_HOME = Path.home() / ".cache" / "al_ray" / "litellm"
WITHOUT_KEY = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
"""LiteLLM then checks no key, which is its fastest way, and Agent Lightning's."""


@dataclass(frozen=True)
class Figures:
    """Of one way of asking, at one number of connections."""

    requests: float
    rate: float
    p50: float
    p99: float


class MockEngine(OnLine):
    """What the mock upstream says, as an engine says it."""

    def __init__(self) -> None:
        from al_ray.types import ChatReply, Choice, VersionSpan

        message = {"role": "assistant", "content": TEXT}
        versions = [VersionSpan(1, 0, len(RESPONSE_IDS))]
        self._reply = ChatReply(PROMPT_IDS, [Choice(0, message, "stop", RESPONSE_IDS, LOGPROBS, versions)])

    async def chat(self, request: Any) -> Any:
        return self._reply

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        """A piece for each token."""
        from al_ray.types import ChatDelta

        yield ChatDelta(0, {"role": "assistant", "content": ""})
        for _ in RESPONSE_IDS:
            yield ChatDelta(0, {"content": TEXT[:5]}, 1)
        yield self._reply


def upstream(port: int) -> None:
    """Serve the mock upstream."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": TEXT},
        "finish_reason": "stop",
        "token_ids": RESPONSE_IDS,
    }
    usage = {"prompt_tokens": 300, "completion_tokens": 40, "total_tokens": 340}
    reply = {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": 0,
        "model": "mock",
        "choices": [choice],
        "usage": usage,
        "prompt_token_ids": PROMPT_IDS,
    }

    async def answer(request: web.Request) -> web.Response:
        orjson.loads(await request.read())
        return web.Response(body=orjson.dumps(reply), content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


async def load(
    urls: Sequence[str], keys: Sequence[str], body: Mapping[str, object], connections: int, seconds: float
) -> Figures:
    """As many connections, each asking again as soon as it is answered.

    The rate is by Little's law. Of a slow server that answers in waves it would else depend on how many of
    them fall into the few seconds.
    """
    times: list[float] = []
    start = time.perf_counter() + 1.0  # what comes before is warm-up
    end = start + seconds
    await asyncio.gather(
        *(
            _connection(urls[i % len(urls)], keys[i % len(keys)], body, start, end, times)
            for i in range(connections)
        )
    )
    ordered = sorted(times)
    p99 = ordered[int(0.99 * len(ordered))]
    rate = connections / statistics.mean(times)
    return Figures(len(times), rate, statistics.median(ordered) * 1000, p99 * 1000)


async def _connection(
    url: str, key: str, wanted: Mapping[str, object], start: float, end: float, times: list[float]
) -> None:
    """Raw HTTP: a client library would cost more than what is measured."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = orjson.dumps({"messages": MESSAGES, "max_tokens": 64, **wanted})
    head = (
        f"POST {address.path}/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    answered = 0.0
    while answered < end:
        sent = time.perf_counter()
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer + await reader.read(500)
        if wanted.get("stream"):
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            lines = answer.lower().split(b"\r\n")
            length = next(line for line in lines if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
        answered = time.perf_counter()
        if start <= answered < end:
            times.append(answered - sent)
    writer.close()


@contextmanager
def running(command: Sequence[str | Path], port: int, folder: Path, **variables: str) -> Iterator[str]:
    """A server in a process of its own, until it listens; gives its base URL."""
    log = folder / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | variables,
            cwd=folder,
        )
    try:
        for _ in range(1200):
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended:\n{log.read_text()[-3000:]}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"{command[0]} does not listen:\n{log.read_text()[-3000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def gateways(upstream_url: str, folder: Path, count: int) -> Iterator[tuple[list[str], list[str], Path]]:
    """Real gateways and the store with the mock engine; base URLs, keys, and the database."""
    import ray

    from al_ray.actors.gateway.actor import GATEWAY_OPTIONS, Gateway
    from al_ray.actors.gateway.calls.hosted.model import HostedModelSpec
    from al_ray.actors.gateway.calls.routes import CallRules
    from al_ray.actors.gateway.calls.sampling import PinnedSampling, SamplingRules
    from al_ray.actors.gateway.spec import GatewaySpec
    from al_ray.actors.store.actor import STORE_OPTIONS, Store
    from al_ray.database.backends import sqlite_url
    from al_ray.types import RolloutRequest, Task

    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        database = folder / "store.sqlite"
        store = ray.remote(Store).options(**STORE_OPTIONS).remote(sqlite_url(database), lease_seconds=3600.0)
        sampling = SamplingRules(PinnedSampling(1.0, 1.0, 64))
        rules = CallRules("mock", {"train": sampling, "eval": sampling}, seed=0)
        spec = GatewaySpec(rules, hosted={"hosted": HostedModelSpec(upstream_url, "mock", None)})
        actor_class = ray.remote(Gateway).options(**GATEWAY_OPTIONS)
        actors = [actor_class.remote(spec, sqlite_url(database)) for _ in range(count)]
        engine = ray.remote(MockEngine).options(num_cpus=0, max_concurrency=1000).remote()
        urls = ray.get([actor.start.remote() for actor in actors])
        ray.get([actor.admit.remote([engine]) for actor in actors])
        requests = [RolloutRequest(f"r{i}", "b", "g", Task("t", {})) for i in range(max(CONNECTIONS))]
        ray.get(store.enqueue.remote(requests))
        claims = ray.get(store.claim.remote("w", "c", len(requests), 10.0))
        yield urls, [claim.attempt.key for claim in claims], database
    finally:
        ray.shutdown()


def litellm(upstream_url: str, folder: Path, port: int, workers: int) -> list[str | Path]:
    """The command that runs LiteLLM's proxy in front of the upstream; installs it first if need be."""
    program = LITELLM_HOME / "bin" / "litellm"
    if not program.exists():
        venv.create(LITELLM_HOME, with_pip=True)
        subprocess.run([LITELLM_HOME / "bin" / "pip", "install", "-q", "litellm[proxy]"], check=True)
    parameters = {"model": "openai/mock", "api_base": upstream_url, "api_key": "none"}
    config = folder / "litellm.json"  # JSON is YAML
    config.write_bytes(orjson.dumps({"model_list": [{"model_name": "mock", "litellm_params": parameters}]}))
    places = {"config": config, "host": "127.0.0.1", "port": port, "num_workers": workers}
    return [program, *(str(part) for name, value in places.items() for part in (f"--{name}", value))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(rounds: int, seconds: float, count: int, *, with_litellm: bool) -> dict[str, dict[int, Figures]]:
    """Every way of asking, at every number of connections."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        port = free_port()
        mock = [sys.executable, "-m", "benchmarks.calls.gateway", "--upstream", str(port)]
        direct = stack.enter_context(running(mock, port, folder, PYTHONPATH=str(ROOT)))
        urls, keys, database = stack.enter_context(gateways(direct, folder, count))
        mock_model = {"model": "mock"}
        ways: dict[str, tuple[list[str], list[str], Mapping[str, object]]] = {
            "upstream alone": ([direct], ["none"], mock_model),
            "gateway, engine": (urls, keys, mock_model),
            "... streamed": (urls, keys, {"model": "mock", "stream": True}),
            "gateway, hosted": (urls, keys, {"model": "hosted"}),
        }
        if with_litellm:
            port = free_port()
            command = litellm(direct, folder, port, count)
            proxy = stack.enter_context(running(command, port, folder, **WITHOUT_KEY))
            ways["LiteLLM proxy"] = ([proxy], ["none"], mock_model)
        taken = [
            (name, n, asyncio.run(load(*way, n, seconds)))
            for n in CONNECTIONS
            for _ in range(rounds)
            for name, way in ways.items()
        ]
        kept = recorded(database)
    figures = {
        name: {n: median([f for way, at, f in taken if (way, at) == (name, n)]) for n in CONNECTIONS}
        for name in ways
    }
    timed = sum(f.requests for name, _, f in taken if name not in ("upstream alone", "LiteLLM proxy"))
    assert kept >= timed, f"{timed} calls were answered, {kept} are in the store"
    print(f"{kept} calls are in the store, warm-up included; {timed} were timed")
    return figures


def median(rounds: Sequence[Figures]) -> Figures:
    """Of each figure for itself."""
    return Figures(*(statistics.median(values) for values in zip(*map(astuple, rounds), strict=True)))


def recorded(database: Path) -> int:
    """Spans that are durable."""
    import sqlite3

    with sqlite3.connect(database) as connection:
        return int(connection.execute("select count(*) from spans").fetchone()[0])


def show(figures: dict[str, dict[int, Figures]]) -> None:
    """A table for each number of connections."""
    baseline = figures["upstream alone"]
    for connections in CONNECTIONS:
        print(f"\n{connections} connection{'s' if connections > 1 else ''}")
        columns = ("p50 ms", "p99 ms", "added p50", "added p99", "requests/s", "x LiteLLM")
        print(" " * 18 + "".join(f"{column:>12}" for column in columns))
        for name, measured in figures.items():
            f, b = measured[connections], baseline[connections]
            other = figures.get("LiteLLM proxy")
            ratio = f"{f.rate / other[connections].rate:.1f}" if other else ""
            print(
                f"{name:18}{f.p50:12.2f}{f.p99:12.2f}{f.p50 - b.p50:12.2f}{f.p99 - b.p99:12.2f}"
                f"{f.rate:12.0f}{ratio:>12}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each way in each round")
    parser.add_argument("--side-by-side", type=int, default=1, metavar="N", help="gateways, and workers")
    parser.add_argument("--without-litellm", action="store_true")
    parser.add_argument("--upstream", type=int, metavar="PORT", help="serve the mock upstream, no more")
    arguments = parser.parse_args()
    if arguments.upstream:
        upstream(arguments.upstream)
        return
    count = arguments.side_by_side
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores, {count} side by side")
    show(measure(arguments.rounds, arguments.seconds, count, with_litellm=not arguments.without_litellm))
    print(f"\nload average {os.getloadavg()[0]:.2f} at the end")


if __name__ == "__main__":
    main()
