"""Agents of other people's frameworks, without a line of ours: names of agents, tools, and nesting.

Each runs in a virtual environment of its own, made once by uv and kept in the user's cache; what traces
it is OpenTelemetry's own start command and the instrumentation that ``docs/traces.md`` names.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import ray

from al_ray.actors.gateway.actor import GATEWAY_OPTIONS, Gateway
from al_ray.actors.store.actor import STORE_OPTIONS, Store
from al_ray.database.backends import sqlite_url
from al_ray.database.writer import Database
from al_ray.traces import semconv
from al_ray.traces.nesting import Nesting
from al_ray.types import ChatRequest, Choice, RolloutRequest, Task
from tests.support.agents.client_environments import python_environment
from tests.support.houses.gateway import SPEC
from tests.support.models.fake_engine import FakeEngine

pytestmark = pytest.mark.slow

AGENTS = Path(__file__).parents[2] / "support" / "agents" / "frameworks"
STARTER = (
    "opentelemetry-distro",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-instrumentation-httpx",
)


@dataclass(frozen=True)
class Framework:
    name: str
    packages: tuple[str, ...]


LANGCHAIN = ("langgraph==1.2.*", "langchain-openai==1.7.*", "langchain==1.*")
FRAMEWORKS = [
    Framework("langgraph", (*LANGCHAIN, "opentelemetry-instrumentation-langchain")),
    Framework("openai_agents", ("openai-agents==0.24.*", "openinference-instrumentation-openai-agents")),
    Framework("autogen", ("autogen-agentchat==0.7.5", "autogen-ext[openai]==0.7.5")),
]
OPENINFERENCE = Framework("langgraph", (*LANGCHAIN, "openinference-instrumentation-langchain"))


class Scripted(FakeEngine):
    """Calls a tool that it is offered, once, and then says something of its own."""

    def _choice(self, request: ChatRequest, index: int) -> Choice:
        is_answered = any(message["role"] == "tool" for message in request.messages)
        return super()._choice(replace(request, tools=None) if is_answered else request, index)


def environment_of(framework: Framework) -> Path:
    """The virtual environment's ``bin``."""
    return python_environment(framework.name, [*STARTER, *framework.packages]) / "bin"


@dataclass(frozen=True)
class House:
    store: Any
    engine: Any
    url: str
    database: Database

    async def trace(self, framework: Framework) -> Nesting:
        """What is known of an attempt of the framework's agent, started as the runner starts a command."""
        binaries = await asyncio.to_thread(environment_of, framework)
        name = f"{framework.name}/{abs(hash(framework))}"
        await self.store.enqueue.remote([RolloutRequest(name, "b", "g", Task("t", {}))])
        (claim,) = await self.store.claim.remote("w", f"claim of {name}", 1, 0.0)
        asked = len(await self.engine.requests.remote())
        process = await asyncio.create_subprocess_exec(
            binaries / "opentelemetry-instrument",
            binaries / "python",
            AGENTS / f"{framework.name}_agent.py",
            env=self._variables(claim.attempt.key, name, binaries),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        printed, _ = await asyncio.wait_for(process.communicate(), 300)
        assert process.returncode == 0, printed.decode()
        rollout = self.database.rollout(name)
        assert rollout is not None
        nesting = Nesting(rollout.spans)
        assert len(nesting.calls) == len(await self.engine.requests.remote()) - asked, "each call is one call"
        return nesting

    def _variables(self, key: str, rollout: str, binaries: Path) -> Mapping[str, str]:
        return {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "OPENAI_BASE_URL": self.url,
            "OPENAI_API_KEY": key,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url.removesuffix("/v1"),
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization={quote(f'Bearer {key}', safe='')}",
            "OTEL_RESOURCE_ATTRIBUTES": f"{semconv.ROLLOUT_ID}={quote(rollout, safe='')},{semconv.ATTEMPT}=1",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        }


@pytest.fixture(scope="module")
def house(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    url = sqlite_url(tmp_path_factory.mktemp("frameworks") / "store.sqlite")
    store = ray.remote(Store).options(**STORE_OPTIONS).remote(url, 600.0)
    ray.get(store.ping.remote())
    gateway = ray.remote(Gateway).options(**GATEWAY_OPTIONS).remote(SPEC, url)
    engine = ray.remote(Scripted).options(num_cpus=0, max_concurrency=100).remote("a")
    base_url = ray.get(gateway.start.remote())
    ray.get(gateway.admit.remote([engine]))
    database = Database(url)
    yield House(store, engine, base_url, database)
    database.close()
    for actor in (gateway, store, engine):
        ray.kill(actor)


@pytest.mark.parametrize(
    "framework", [*FRAMEWORKS, OPENINFERENCE], ids=lambda f: f"{f.name}-{f.packages[-1]}"
)
async def test_an_unmodified_agent_gives_agent_names_tool_calls_and_nesting(
    house: House, framework: Framework
) -> None:
    nesting = await house.trace(framework)
    assert [nesting.agent(call) for call in nesting.calls] == ["writer", "writer", "checker"]
    within = [list(nesting.around(call)) for call in nesting.calls]
    assert all(within), "each call is within the agent's own operations"
    (tool,) = (span for span in nesting.spans if span.attributes.get(semconv.OPERATION) == "execute_tool")
    assert tool.attributes[semconv.TOOL_NAME] == "add"
    assert nesting.agent(tool) == "writer"
