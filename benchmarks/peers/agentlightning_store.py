"""Agent Lightning 0.3's side of ``store``: its in-memory store behind its own server and clients.

Run by that one with the Python of an environment that has agentlightning 0.3.0. The server is
what ``agl store`` starts. Each runner has a client of its own, as each of its runner processes has;
they share this process, and number their own spans, which spares the server a request a span.

    python -m benchmarks.peers.agentlightning_store RUNNERS ROLLOUTS REPEATS
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agentlightning.store.client_server import LightningStoreClient
from agentlightning.types import AttemptedRollout, EnqueueRolloutRequest, OtelResource, Span, TraceStatus

from benchmarks.peers.store_load import ATTRIBUTES, rate

POLL_SECONDS = 0.5
"""Its client cannot wait for longer than 0.1 s, and its own trainer asks every 5 s."""


class AgentLightning:
    """A ``store_load.Side``."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._driver = self._client()
        self._clients: dict[str, LightningStoreClient] = {}
        self._ids: list[str] = []
        self._claimed = 0

    def _client(self) -> LightningStoreClient:
        """More patient than by default, which gives up on a busy server."""
        return LightningStoreClient(self._url, request_timeout=600.0, connection_timeout=600.0)

    async def enqueue(self, names: Sequence[str]) -> None:
        made = await self._driver.enqueue_many_rollouts(
            [EnqueueRolloutRequest(input={"name": name}) for name in names]
        )
        self._ids, self._claimed = [rollout.rollout_id for rollout in made], 0

    async def claim(self, runner: str) -> tuple[LightningStoreClient, AttemptedRollout] | None:
        client = self._clients.get(runner) or self._clients.setdefault(runner, self._client())
        while self._claimed < len(self._ids):
            rollout = await client.dequeue_rollout(worker_id=runner)
            if rollout is not None:
                self._claimed += 1
                return client, rollout
            await asyncio.sleep(0.1)  # None also where the request failed
        return None

    async def record(self, attempt: tuple[LightningStoreClient, AttemptedRollout], number: int) -> None:
        client, rollout = attempt
        await client.add_span(_span(rollout, number))

    async def finish(self, attempt: tuple[LightningStoreClient, AttemptedRollout]) -> None:
        client, rollout = attempt
        await client.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")

    async def read(self, names: Sequence[str]) -> int:
        waiting, spans = set(self._ids), 0
        while waiting:
            done = await self._driver.wait_for_rollouts(rollout_ids=list(waiting), timeout=0.0)
            for rollout in done:
                spans += len(await self._driver.query_spans(rollout.rollout_id, attempt_id="latest"))
                waiting.remove(rollout.rollout_id)
            if waiting:
                await asyncio.sleep(POLL_SECONDS)
        return spans

    async def close(self) -> None:
        for client in (self._driver, *self._clients.values()):
            await client.close()


def _span(rollout: AttemptedRollout, number: int) -> Span:
    now = time.time()
    return Span(
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
        sequence_id=number,
        trace_id=f"{number:032x}",
        span_id=f"{number:016x}",
        parent_id=None,
        name="openai.chat.completion",
        status=TraceStatus(status_code="OK"),
        attributes=dict(ATTRIBUTES),
        events=[],
        links=[],
        start_time=now,
        end_time=now,
        context=None,
        parent=None,
        resource=OtelResource(attributes={}, schema_url=""),
    )


async def measure(url: str, runners: int, rollouts: int, repeats: int) -> None:
    side = AgentLightning(url)
    await rate(side, runners, runners)  # not counted
    for _ in range(repeats):
        print(await rate(side, runners, rollouts), flush=True)
    await side.close()


def main() -> None:
    runners, rollouts, repeats = map(int, sys.argv[1:])
    logging.disable(logging.WARNING)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "agl", "store", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen([*command, "--log-level", "ERROR"], stdout=sys.stderr)
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if server.poll() is not None:
                raise RuntimeError("the server did not start")
            time.sleep(0.2)
        asyncio.run(measure(f"http://127.0.0.1:{port}", runners, rollouts, repeats))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
