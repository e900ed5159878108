"""The coding agent of the example, within its recipe's walls, at a real gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from al_ray.actors.gateway.actor import GATEWAY_OPTIONS, Gateway
from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.recipe import loading
from al_ray.traces import semconv
from al_ray.types import RolloutRequest, RolloutStatus, SpanKind, Task
from tests.support.houses.beside_the_store import finished
from tests.support.houses.gateway import SPEC
from tests.support.machines.bubblewrap import NOT_HERE, builds_walls
from tests.support.models.fake_engine import FakeEngine

RECIPE = Path(__file__).resolve().parents[4] / "recipes" / "coding_agent.yaml"
WRITTEN = """\
```python
import os
open("/work/x", "w").write("it may")
assert not os.path.exists("/root") and not os.path.exists("/home")
def f(x):
    return x + 3
```"""


@pytest.mark.skipif(not builds_walls(), reason=NOT_HERE)
async def test_what_the_model_writes_is_run_within_walls_and_its_tests_are_the_reward(
    start_store: Callable[..., Any], store_place: str
) -> None:
    """Half of the tests ask for something else, so it is asked again, and its calls are recorded."""
    store = start_store()
    await store.ping.remote()
    gateway = ray.remote(Gateway).options(**GATEWAY_OPTIONS).remote(SPEC, store_place)
    url = await gateway.start.remote()
    engine = ray.remote(FakeEngine).options(num_cpus=0, max_concurrency=10).remote(WRITTEN)
    await gateway.admit.remote([engine])
    pool = RunnerPool(RunnerSpec("runner", loading.load(RECIPE).agent, [url], "toy"), 1, store, {})
    pool.start()
    tests = {"right": [[[1], 4], [[2], 5]], "half": [[[1], 4], [[2], 0]]}
    await store.enqueue.remote(
        [
            RolloutRequest(name, "b", "g", Task(name, {"question": "Write f.", "tests": of_task}))
            for name, of_task in tests.items()
        ]
    )
    (group,) = await finished(store, "b")
    await pool.stop()
    ray.kill(gateway)
    ray.kill(engine)
    rewards, calls = [], []
    for rollout in group.rollouts:
        assert rollout.status is RolloutStatus.SUCCEEDED, rollout.attempts[0].error
        rewards.append(rollout.spans[-1].attributes[semconv.REWARD])
        calls.append([span.kind for span in rollout.spans].count(SpanKind.CALL))
    assert (rewards, calls) == ([1.0, 0.5], [1, 2])
