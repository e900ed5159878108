"""A real gateway and a real store, as an agent's clients meet them."""

from __future__ import annotations

import itertools
import resource
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import orjson
import ray
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from al_ray.actors.gateway.actor import GATEWAY_OPTIONS, Gateway
from al_ray.actors.gateway.calls.routes import CallRules
from al_ray.actors.gateway.calls.sampling import PinnedSampling, SamplingRules
from al_ray.actors.gateway.spec import GatewaySpec
from al_ray.database.backends import sqlite_url
from al_ray.database.writer import Database
from al_ray.types import JSON, Attempt, AttemptStatus, Mode, Replay, Rollout, RolloutRequest, Span, Task
from tests.support.houses.stores import lent_store
from tests.support.models.fake_engine import FakeEngine

SAMPLING: Mapping[Mode, SamplingRules] = {
    "train": SamplingRules(PinnedSampling(temperature=0.7, top_p=0.9, max_tokens=64)),
    "eval": SamplingRules(PinnedSampling(temperature=0.0, top_p=1.0, max_tokens=32)),
}
SPEC = GatewaySpec(CallRules("toy", SAMPLING, seed=0))
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Needed by no test, and made by every client that is given none: 30 ms of computing."""


def say(content: str) -> Any:
    return [{"role": "user", "content": content}]


def engine(name: str) -> Any:
    return ray.remote(FakeEngine).options(num_cpus=0, max_concurrency=100).remote(name)


@dataclass(frozen=True)
class House:
    """A real gateway and a real store."""

    store: Any
    gateway: Any
    url: str
    """Of the gateway."""
    store_url: str
    database: Database
    """The store's, read from this process."""
    names: Iterator[int]

    async def admit(self, *engines: Any) -> None:
        await self.gateway.admit.remote(engines)

    async def attempt(self, mode: Mode = "train", replay: Replay | None = None, group: str = "") -> Attempt:
        """Of a new rollout, of that group or alone in its own."""
        name = f"r{next(self.names)}"
        request = RolloutRequest(name, "b", group or name, Task("t", {}), mode, replay=replay)
        await self.store.enqueue.remote([request])
        while True:  # what others left, to be tried again, comes first
            claim_id = f"claim {next(self.names)} of {request.id}"
            (claim,) = await self.store.claim.remote("w", claim_id, 1, 0.0)
            if claim.request.id == request.id:
                return claim.attempt

    def client(self, attempt: Attempt) -> AsyncOpenAI:
        http_client = openai.DefaultAsyncHttpxClient(verify=_TLS)
        return AsyncOpenAI(
            base_url=self.url, api_key=attempt.key, max_retries=0, timeout=60, http_client=http_client
        )

    def anthropic(self, attempt: Attempt) -> AsyncAnthropic:
        url = self.url.removesuffix("/v1")
        http_client = anthropic.DefaultAsyncHttpxClient(verify=_TLS)
        return AsyncAnthropic(
            base_url=url, api_key=attempt.key, max_retries=0, timeout=60, http_client=http_client
        )

    def memory(self) -> int:
        """Bytes of the gateway's process."""
        page = resource.getpagesize()
        return ray.get(
            self.gateway.__ray_call__.remote(
                lambda _: int(Path("/proc/self/statm").read_text().split()[1]) * page
            )
        )

    async def end(self, attempt: Attempt, status: AttemptStatus = AttemptStatus.TIMED_OUT) -> None:
        await self.store.finish.remote([(Attempt(attempt.rollout_id, attempt.number, "", status), ())])

    def calls(self, attempt: Attempt) -> list[Span]:
        """What is durable."""
        return list(self.rollout(attempt).spans)

    def rollout(self, attempt: Attempt) -> Rollout:
        rollout = self.database.rollout(attempt.rollout_id)
        assert rollout is not None
        return rollout

    async def ask(self, attempt: Attempt, content: str = "hello", **options: Any) -> Any:
        async with self.client(attempt) as client:
            return await client.chat.completions.create(model="any", messages=say(content), **options)

    async def chunks(self, attempt: Attempt, content: str = "hello", **options: Any) -> list[Any]:
        async with self.client(attempt) as client:
            stream = await client.chat.completions.create(
                model="any", messages=say(content), stream=True, **options
            )
            return [chunk async for chunk in stream]

    async def post(
        self, body: bytes, key: str | None, path: str = "/chat/completions", method: str = "POST"
    ) -> tuple[int, dict[str, JSON]]:
        """Status and body of a request that no client library would make."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, data=body, headers=headers) as response,
        ):
            return response.status, orjson.loads(await response.read())


@contextmanager
def open_house(folder: Path, spec: GatewaySpec = SPEC, lease_seconds: float = 600.0) -> Iterator[House]:
    """With a database in ``folder``. Nobody but a runner renews the leases of its attempts."""
    url = sqlite_url(folder / "store.sqlite")
    with ExitStack() as stack:
        store = stack.enter_context(lent_store(url, lease_seconds=lease_seconds))
        ray.get(store.ping.remote())
        gateway = ray.remote(Gateway).options(**GATEWAY_OPTIONS).remote(spec, url)
        stack.callback(ray.kill, gateway)
        base_url = ray.get(gateway.start.remote())
        database = Database(url)
        stack.callback(database.close)
        yield House(store, gateway, base_url, url, database, itertools.count())


@asynccontextmanager
async def beside(house: House, engine: Any, spec: GatewaySpec = SPEC) -> AsyncIterator[House]:
    """The house with another gateway, that knows nothing of what the first one was asked."""
    gateway = ray.remote(Gateway).options(**GATEWAY_OPTIONS).remote(spec, house.store_url)
    other = replace(house, gateway=gateway, url=await gateway.start.remote())
    await other.admit(engine)
    yield other
    ray.kill(gateway)
