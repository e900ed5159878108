"""A program in another language, whole: the example's, at a real gateway."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from al_ray.actors.gateway.actor import GATEWAY_OPTIONS, Gateway
from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.recipe import AgentSection
from al_ray.traces import semconv
from al_ray.types import RolloutRequest, RolloutStatus, SpanKind, Task
from tests.support.houses.beside_the_store import finished
from tests.support.houses.gateway import SPEC
from tests.support.models.fake_engine import FakeEngine

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "node_agent"


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here")
async def test_the_program_of_the_example_calls_the_model_and_gives_its_reward(
    start_store: Callable[..., Any], store_place: str
) -> None:
    store = start_store()
    await store.ping.remote()
    gateway = ray.remote(Gateway).options(**GATEWAY_OPTIONS).remote(SPEC, store_place)
    url = await gateway.start.remote()
    engine = ray.remote(FakeEngine).options(num_cpus=0, max_concurrency=10).remote("forty-two")
    await gateway.admit.remote([engine])
    agent = AgentSection(isolation="command", command=["node", "agent.mjs"], folder=str(EXAMPLE), timeout=60)
    pool = RunnerPool(RunnerSpec("runner", agent, [url], "toy"), 1, store, {})
    pool.start()
    task = Task("t", {"question": "What is 41 + 1?", "answer": "forty-two"})
    await store.enqueue.remote([RolloutRequest("r", "b", "g", task)])
    (group,) = await finished(store, "b")
    await pool.stop()
    ray.kill(gateway)
    ray.kill(engine)
    (rollout,) = group.rollouts
    assert rollout.status is RolloutStatus.SUCCEEDED, rollout.attempts[0].error
    call, output, reward = rollout.spans
    assert (call.kind, output.name, reward.kind) == (SpanKind.CALL, semconv.AGENT_OUTPUT, SpanKind.REWARD)
    assert call.attributes[semconv.INPUT_MESSAGES][0]["content"] == "What is 41 + 1?"
    answer = call.attributes[semconv.OUTPUT_MESSAGES][0]["content"]
    assert reward.attributes[semconv.REWARD] == pytest.approx(1 - len(answer) / 1000)
