"""The runner: every attempt ends once, in the store, and as what it was."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from al_ray import semconv
from al_ray.actors.ray_errors import unwrapped
from al_ray.actors.runner import RUNNER_OPTIONS, Runner, RunnerSpec
from al_ray.actors.store import STORE_OPTIONS, Store
from al_ray.errors import AttemptEndedError
from al_ray.sql import sqlite_url
from al_ray.types import AttemptStatus, RetryPolicy, Rollout, RolloutRequest, RolloutStatus, Task
from tests.actors.agents import STRANGE

TIMEOUT = 1.0
CONCURRENCY = 3
LEASE_SECONDS = 1.5


@dataclass(frozen=True)
class House:
    """A real store and runners of one agent."""

    store: Any
    numbers: Iterator[int]

    async def rollouts(self, *tasks: dict[str, Any], max_attempts: int = 1) -> list[Rollout]:
        """Of one new group, ended."""
        batch = f"batch {next(self.numbers)}"
        await self.store.enqueue.remote(
            [
                RolloutRequest(f"{batch}/{i}", batch, batch, Task("t", task), retry=RetryPolicy(max_attempts))
                for i, task in enumerate(tasks)
            ]
        )
        (group,) = await self.store.finished_groups.remote(batch, [], 60.0)
        return list(group.rollouts)

    async def rollout(self, task: dict[str, Any], max_attempts: int = 1) -> Rollout:
        (rollout,) = await self.rollouts(task, max_attempts=max_attempts)
        return rollout


def house_of(path: Path, agent: str, evaluate: str | None = None) -> Iterator[House]:
    store = ray.remote(Store).options(**STORE_OPTIONS).remote(sqlite_url(path / "store"), LEASE_SECONDS)
    spec = RunnerSpec(
        name="runner",
        agent=f"tests.actors.agents:{agent}",
        evaluate=evaluate and f"tests.actors.agents:{evaluate}",
        timeout=TIMEOUT,
        concurrency=CONCURRENCY,
        base_url="http://gateway/v1",
        model="toy",
    )
    runner = ray.remote(Runner).options(**RUNNER_OPTIONS).remote(spec, store)
    run = runner.run.remote()
    yield House(store, itertools.count())
    done, _ = ray.wait([run], timeout=0)
    ray.kill(runner)
    ray.kill(store)
    assert not done, "the runner itself has ended"


@pytest.fixture(scope="module")
def house(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from house_of(tmp_path_factory.mktemp("runner"), "act")


@pytest.fixture(scope="module")
def judged(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from house_of(tmp_path_factory.mktemp("judged"), "answer_and_spoil", "judge")


@pytest.mark.parametrize(
    ("value", "dimensions"),
    [
        (0.25, {"reward": 0.25}),
        (1, {"reward": 1.0}),
        (True, {"reward": 1.0}),
        ({"reward": -1.5, "format": 1}, {"reward": -1.5, "format": 1.0}),
    ],
)
async def test_what_the_agent_returns_is_the_reward(
    house: House, value: Any, dimensions: dict[str, float]
) -> None:
    rollout = await house.rollout({"do": "give", "value": value})
    (reward,) = rollout.spans
    assert rollout.status is RolloutStatus.SUCCEEDED
    assert reward.attributes[semconv.REWARD] == dimensions["reward"]
    assert reward.attributes[semconv.REWARD_DIMENSIONS] == dimensions
    (attempt,) = rollout.attempts
    assert (attempt.status, attempt.output, attempt.error) == (AttemptStatus.SUCCEEDED, value, None)
    assert attempt.ended_at is not None
    assert attempt.started_at <= attempt.ended_at


@pytest.mark.parametrize("value", STRANGE)
async def test_what_is_no_finite_number_is_no_reward(house: House, value: str) -> None:
    rollout = await house.rollout({"do": "give_something_strange", "value": value})
    assert (rollout.status, list(rollout.spans)) == (RolloutStatus.FAILED, [])
    error = rollout.attempts[-1].error or ""
    assert "a finite number" in error or "OverflowError" in error
    assert "agents:act" in error or "OverflowError" in error


async def test_an_agent_that_raises_fails_with_its_traceback_and_is_tried_again(house: House) -> None:
    """As often as it may, each time with a key of its own, and never with a reward."""
    rollout = await house.rollout({"do": "fail"}, max_attempts=3)
    assert (rollout.status, list(rollout.spans)) == (RolloutStatus.FAILED, [])
    assert [attempt.status for attempt in rollout.attempts] == [AttemptStatus.FAILED] * 3
    assert len({attempt.key for attempt in rollout.attempts}) == 3
    error = rollout.attempts[0].error or ""
    assert "in _fail" in error
    assert "ValueError: a mistake of the agent \\ud800\\x00" in error


@pytest.mark.parametrize(
    ("do", "says"),
    [("exit", "SystemExit: 3"), ("raise_cancelled", "CancelledError"), ("raise_timeout", "the agent's own")],
)
async def test_an_agent_that_tries_to_end_more_than_itself_only_fails(
    house: House, do: str, says: str
) -> None:
    failed, other = await house.rollouts({"do": do}, {"do": "take_a_while"})
    assert failed.attempts[0].status is AttemptStatus.FAILED
    assert says in (failed.attempts[0].error or "")
    assert other.status is RolloutStatus.SUCCEEDED


async def test_a_time_out_ends_the_agent_and_its_key(house: House, tmp_path: Path) -> None:
    rollout = await house.rollout({"do": "sleep", "mark": str(tmp_path / "cancelled")})
    (attempt,) = rollout.attempts
    assert (rollout.status, attempt.status) == (RolloutStatus.FAILED, AttemptStatus.TIMED_OUT)
    assert list(rollout.spans) == []
    assert "1 s" in (attempt.error or "")
    with pytest.raises(AttemptEndedError, match="timed_out"), unwrapped():
        await house.store.authorize.remote(attempt.key)
    await _appears(tmp_path / "cancelled")


async def test_an_agent_that_ignores_its_cancellation_has_timed_out_all_the_same(house: House) -> None:
    rollout = await house.rollout({"do": "ignore_cancellation"}, max_attempts=2)
    assert [attempt.status for attempt in rollout.attempts] == [AttemptStatus.TIMED_OUT] * 2
    assert list(rollout.spans) == []


async def test_agents_run_at_once_but_no_more_than_may(house: House) -> None:
    rollouts = await house.rollouts(*[{"do": "take_a_while"}] * 10)
    spans = [rollout.spans[0].attributes[semconv.REWARD_DIMENSIONS] for rollout in rollouts]
    at_once = [sum(o["begun"] <= s["begun"] < o["ended"] for o in spans) for s in spans]
    assert max(at_once) == CONCURRENCY


async def test_an_attempt_that_the_store_has_cancelled_ends_its_agent(house: House, tmp_path: Path) -> None:
    """With the next renewal of its lease, long before its time-out would."""
    await house.store.enqueue.remote(
        [RolloutRequest("c", "c", "c", Task("t", {"do": "sleep", "mark": str(tmp_path / "cancelled")}))]
    )
    await asyncio.sleep(0.2)
    await house.store.cancel.remote("c")
    await _appears(tmp_path / "cancelled")
    (group,) = await house.store.finished_groups.remote("c", [], 0.0)
    assert group.rollouts[0].status is RolloutStatus.CANCELLED


async def test_an_evaluator_turns_the_output_into_rewards(judged: House) -> None:
    """Awaited if need be; it sees the task as it was, not as the agent has left it."""
    for later in (False, True):
        rollout = await judged.rollout({"answer": {"right": 0.75}, "later": later})
        (reward,) = rollout.spans
        assert reward.attributes[semconv.REWARD] == 0.5
        assert reward.attributes[semconv.REWARD_DIMENSIONS] == {"reward": 0.5, "answered": 1.0, "right": 0.75}
        (attempt,) = rollout.attempts
        assert attempt.output == ["http://gateway/v1", attempt.key, "toy"]


async def test_an_evaluator_that_raises_fails_the_attempt_and_the_output_is_kept(judged: House) -> None:
    rollout = await judged.rollout({"answer": {}, "raise": True}, max_attempts=2)
    assert [attempt.status for attempt in rollout.attempts] == [AttemptStatus.FAILED] * 2
    assert "LookupError: a mistake of the evaluator" in (rollout.attempts[0].error or "")
    assert rollout.attempts[0].output[2] == "toy"
    assert list(rollout.spans) == []


async def test_an_output_that_is_no_json_is_kept_as_it_prints(judged: House) -> None:
    rollout = await judged.rollout({"answer": {"right": 1}, "unstorable": True})
    assert rollout.status is RolloutStatus.SUCCEEDED
    assert rollout.attempts[0].output.startswith("<object object")


async def test_an_agent_that_is_not_async_fails_with_the_reason(ray_cluster: None, tmp_path: Path) -> None:
    houses = house_of(tmp_path, "plain")
    rollout = await next(houses).rollout({})
    assert rollout.status is RolloutStatus.FAILED
    assert "agents:plain is not async: it returned 1.0" in (rollout.attempts[0].error or "")
    assert list(houses) == []


async def _appears(path: Path) -> None:
    async with asyncio.timeout(10):
        while not path.exists():
            await asyncio.sleep(0.02)
