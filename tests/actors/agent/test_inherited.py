"""What agents find of the environment in which the run was started, however they are run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from al_ray.actors.agent.inherited import inherited, overridden, past_proxies, shed
from al_ray.recipe import AgentSection
from al_ray.traces import semconv
from al_ray.types import RolloutStatus
from tests.support.agents import wild
from tests.support.houses.runner import house_of

SECRETS = dict.fromkeys(
    [
        "AL_RAY_COLLECTOR_KEY",
        "PGPASSWORD",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "MLFLOW_TRACKING_TOKEN",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_REDIS_PASSWORD",
        "RAY_RUNTIME_ENV_BEARER_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AN_UPSTREAMS_KEY",
    ],
    "a secret",
)
TRACING = {
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "Authorization=a secret",
    "OTEL_SDK_DISABLED": "true",
    "OTEL_TRACES_SAMPLER": "always_off",
}
PROXIES = {
    "http_proxy": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "http://me:a secret@127.0.0.1:9",
    "no_proxy": "example.org",
}
SURROUNDINGS = {**SECRETS, **TRACING, **PROXIES, "NAMED": "as the recipe says", "PATH": "/usr/bin:/bin"}
WILD = wild.__name__
AGENTS = {
    "async": {"run": f"{WILD}:ask_later"},
    "thread": {"run": f"{WILD}:act"},
    "process": {"run": f"{WILD}:act"},
    "command": {"command": [sys.executable, wild.__file__]},
}


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Its URL; it stands where the gateway would."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as made:
        Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}/v1"
        made.shutdown()


@pytest.mark.parametrize("isolation", AGENTS)
async def test_an_agent_finds_no_secret_of_the_drivers_and_its_gateway_past_proxies(
    ray_cluster: None, tmp_path: Path, server: str, isolation: str
) -> None:
    """Nor do its evaluator; both find what the recipe names. No variable turns its spans elsewhere."""
    agent = {**AGENTS[isolation], "isolation": isolation, "environment": ["NAMED"], "timeout": 20.0}
    houses = house_of(tmp_path, server, SURROUNDINGS, evaluate=f"{WILD}:see_and_judge", **agent)
    rollout = await next(houses).rollout({"do": "ask", "url": server})
    assert rollout.status is RolloutStatus.SUCCEEDED, rollout.attempts[0].error
    found = rollout.attempts[0].output["environment"]
    assert "a secret" not in str(found)
    assert not found.keys() & TRACING.keys()
    assert found["NAMED"] == "as the recipe says"
    assert found["no_proxy"] == found["NO_PROXY"] == "example.org,127.0.0.1"
    assert found["http_proxy"] == PROXIES["http_proxy"]
    if isolation in ("process", "command"):
        assert not [name for name in found if name.startswith("RAY_")]
    dimensions = rollout.spans[-1].attributes[semconv.REWARD_DIMENSIONS]
    assert dimensions == {"reward": 1.0, "named": 1.0, "secrets": 0.0}
    assert list(houses) == []


def test_what_any_program_needs_is_given_and_nothing_that_nobody_named() -> None:
    surroundings = {"PATH": "/bin", "LC_ALL": "C", "LANG": "C", "HOME": "/root", "PYTHONPATH": "x"}
    agent = AgentSection(run="a:b", environment=["WANDB_API_KEY"])
    named = {"WANDB_API_KEY": "a secret"}
    assert inherited(agent, SECRETS | surroundings) == surroundings | named


@pytest.mark.parametrize(
    ("proxy", "given"),
    [
        ("http://proxy.corp:3128", True),
        ("proxy.corp:3128", True),
        ("http://bob:s3cret@proxy.corp:3128", False),
        ("bob:s3cret@proxy.corp:3128", False),
        ("http://bob@proxy.corp", False),
        ("http://bob:s3cret@[::1", False),
        ("http://[::1", True),
    ],
)
def test_a_proxy_is_given_unless_it_names_a_user(proxy: str, given: bool) -> None:
    """However it is written, as curl, wget and Python take it; what no URL is may be anybody's mistake."""
    for name in ("http_proxy", "HTTPS_PROXY", "all_proxy"):
        assert inherited(AgentSection(run="a:b"), {name: proxy}) == ({name: proxy} if given else {})


def test_what_ray_needs_stays_in_the_runners_process_and_its_secrets_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = {"RAY_ADDRESS": "127.0.0.1:1", "RAY_AUTH_MODE": "token", "RAY_TLS_SERVER_KEY": "/key.pem"}
    monkeypatch.setattr(os, "environ", {**SECRETS, **needed, "NAMED": "no more"})
    shed(AgentSection(run="a:b"), {"NAMED": "as the recipe says"}, [])
    assert {name: value for name, value in os.environ.items() if value} == needed | {
        "NAMED": "as the recipe says"
    }


def test_what_is_overridden_for_the_sake_of_spans_is_said() -> None:
    agent = AgentSection(run="a:b", environment=["OTEL_SDK_DISABLED"])
    assert overridden(agent, SURROUNDINGS) == sorted(TRACING.keys() - {"OTEL_SDK_DISABLED"})


def test_a_gateway_joins_those_that_need_no_proxy() -> None:
    wanted = "a,b,127.0.0.1,::1"
    given = {"no_proxy": "a, b", "NO_PROXY": "b,127.0.0.1"}
    urls = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2", "http://[::1]:3"]
    assert past_proxies(given, urls) == {"no_proxy": wanted, "NO_PROXY": wanted}
