"""Measured values are those of the decision process, and what an agent does otherwise is counted; with the
real store, gateway and runner, and an engine whose policy is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from math import isfinite, isnan
from pathlib import Path
from typing import Any

import pytest
import ray

from al_ray.actors.gateway.pool import GatewayPool
from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.database.backends import sqlite_url
from al_ray.database.reader import Records
from al_ray.evaluation.measured.values import MeasuredCall, Measurement, Recorded, measure
from al_ray.recipe import Recipe
from al_ray.rollouts.requests import rollout_requests
from al_ray.rollouts.trajectory import trajectory
from al_ray.run.agents import Agents
from al_ray.types import Rollout, RolloutStatus, Task
from tests.evaluation.measured import tree
from tests.support.houses.gateway import SPEC
from tests.support.houses.stores import lent_store
from tests.support.runs import toy

pytestmark = pytest.mark.slow

SAMPLES = 40
TOLERANCE = 5.0
"""Standard errors: once in a million values more, if all is as it should be."""


def recipe(isolation: str = "async") -> Recipe:
    content = toy.recipe(Path("toy"), Path("out"))
    module = "tests.evaluation.measured.tree"
    content["agent"] |= {"run": f"{module}:solve", "evaluate": f"{module}:score", "concurrency": 16}
    content["agent"] |= {"isolation": isolation}
    return Recipe.model_validate(content)


@dataclass(frozen=True)
class Found:
    """What was recorded, what was measured, and the rollouts by which that was."""

    recorded: Sequence[Recorded]
    paths: Sequence[tree.Path]
    """Of the recorded rollouts."""
    measurement: Measurement
    rollouts: Sequence[Rollout]
    calls: int
    """That the engine answered for them."""

    def of(self, index: int) -> Sequence[MeasuredCall]:
        """Those of one recorded rollout."""
        name = self.recorded[index].request.id
        return [call for call in self.measurement.calls if call.rollout == name]


@dataclass(frozen=True)
class Parts:
    agents: Agents
    records: Records
    engine: Any


@asynccontextmanager
async def started(folder: Path, isolation: str = "async") -> AsyncIterator[Parts]:
    """Whose gateway repeats the rollouts of its own store."""
    url = sqlite_url(folder / "store.sqlite")
    with lent_store(url) as store:
        await store.ping.remote()
        gateways = GatewayPool(replace(SPEC, recorded=url), 1, url, {})
        urls = await gateways.start()
        engine = ray.remote(tree.TreeEngine).options(num_cpus=0, max_concurrency=100).remote()
        await gateways.admit([engine])
        runners = RunnerPool(RunnerSpec("runner", recipe(isolation).agent, urls, "toy"), 1, store, {})
        runners.start()
        records = Records(url)
        yield Parts(Agents(store, records, [runners, gateways]), records, engine)
        records.close()
        await runners.stop()
        await gateways.stop()
        ray.kill(engine)


async def play(parts: Parts, step: int, tasks: Sequence[Task], members: int, samples: int) -> Found:
    """Record ``members`` rollouts of each task, in a step of their own, and measure them all."""
    agents, records, engine = parts.agents, parts.records, parts.engine
    requests = rollout_requests(recipe(), f"step-{step:06d}", tasks, members, "train")
    groups = [group async for ended in agents.rollouts(requests) for group in ended]
    ended = sorted((each for group in groups for each in group.rollouts), key=lambda each: each.id)
    assert all(each.status is RolloutStatus.SUCCEEDED for each in ended), ended[0].attempts
    recorded = [Recorded.of(rollout, trajectory(rollout)) for rollout in ended]
    before, batch = await engine.calls.remote(), f"measure-{step}"
    found = await measure(recipe(), agents, recorded, batch, samples, lambda done, total: None)
    again = await measure(recipe(), agents, recorded, batch, samples, lambda done, total: None)
    assert again.calls == found.calls or any(isnan(call.advantage) for call in found.calls)
    calls = await engine.calls.remote() - before
    groups = records.groups(batch, records.finished_groups(batch, ()))
    paths = [tuple(map(tree.SAYS.index, rollout.attempts[-1].output)) for rollout in ended]
    return Found(recorded, paths, found, [each for group in groups for each in group.rollouts], calls)


@dataclass(frozen=True)
class Plays:
    """One after the other with the same parts."""

    plain: Found
    unlike: Found
    """In their second question one tells the time, one ends without asking, one breaks."""
    side_by_side: Found


@pytest.fixture(scope="module")
def plays(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Plays:
    async def all_of_them() -> Plays:
        habits = ("tells the time", "gives up", "breaks")
        async with started(tmp_path_factory.mktemp("tree")) as parts:
            return Plays(
                await play(parts, 0, [tree.task("a"), tree.task("b")], 2, SAMPLES),
                await play(parts, 1, [tree.task(habit, habit) for habit in habits], 1, 4),
                await play(parts, 2, [tree.task("parallel", "side by side")], 2, 12),
            )

    return asyncio.run(all_of_them())


@pytest.fixture
def found(plays: Plays) -> Found:
    return plays.plain


def test_values_are_those_of_the_process_within_their_sampling_error(found: Found) -> None:
    """Of the beginning, which the rollouts of a task share, and of each state on their way."""
    assert not found.measurement.diverged and not found.measurement.failed
    for index, path in enumerate(found.paths):
        calls = found.of(index)
        assert [call.number for call in calls] == [1, 2, 3]
        for step, call in enumerate(calls):
            state = path[:step]
            expected, error = tree.value(state), tree.deviation(state) / SAMPLES**0.5
            assert abs(call.before.mean - expected) <= TOLERANCE * error, (path, step)
            assert call.before.samples == SAMPLES
            assert call.before.stderr == pytest.approx(error, rel=0.6)
        assert calls[-1].after.mean == tree.worth(path) and calls[-1].after.stderr == 0
        assert [call.before for call in calls[1:]] == [call.after for call in calls[:-1]]
    begins = {found.of(index)[0].before for index in range(2)}
    assert len(begins) == 1


def test_a_calls_advantage_is_the_difference_of_values_and_they_add_up(found: Found) -> None:
    for index, path in enumerate(found.paths):
        calls = found.of(index)
        total = sum(call.advantage for call in calls)
        assert total == pytest.approx(tree.worth(path) - calls[0].before.mean)
        for step, call in enumerate(calls):
            exact = tree.value(path[: step + 1]) - tree.value(path[:step])
            assert abs(call.advantage - exact) <= TOLERANCE * max(call.stderr, 0.02)


def test_rollouts_begin_as_recorded_and_only_the_rest_is_sampled(found: Found) -> None:
    """And asking for the same measurement again is asking once."""
    paths = {each.request.id: path for each, path in zip(found.recorded, found.paths, strict=True)}
    sampled = 0
    for rollout in found.rollouts:
        replay, output = rollout.request.replay, rollout.attempts[-1].output
        calls = 0 if replay is None else replay.calls
        if replay is not None:
            assert tuple(map(tree.SAYS.index, output))[:calls] == paths[replay.rollout_id][:calls]
        assert len(trajectory(rollout).transitions) == tree.DEPTH - calls
        sampled += tree.DEPTH - calls
    states = 2 + 2 * len(found.recorded)
    assert len(found.rollouts) == found.measurement.rollouts == states * SAMPLES
    assert found.calls == sampled


def test_an_agent_that_cannot_be_repeated_is_counted_and_not_used(plays: Plays) -> None:
    found = plays.unlike
    timed, idle, broken = (found.of(index) for index in range(3))
    assert isfinite(timed[0].advantage) and isnan(timed[1].advantage) and isnan(timed[2].advantage)
    assert (timed[2].before.samples, timed[2].before.diverged) == (0, 4)
    for state in (idle[1].before, idle[2].before):
        assert (state.samples, state.failed, state.diverged) == (0, 0, 4)
    for state in (broken[1].before, broken[2].before):
        assert (state.samples, state.failed, state.diverged) == (0, 4, 0)
    told = {(each.recorded, each.told.call, each.told.difference[:19]) for each in found.measurement.diverged}
    assert {(name, call) for name, call, _ in told} == {("step-000001/0/0", 2), ("step-000001/1/0", 1)}
    assert ("step-000001/0/0", 2, "messages[2].content") in told
    assert ("step-000001/1/0", 1, "the agent ended aft") in told
    reasons = {reason for reason, _ in found.measurement.failed}
    assert reasons == {"builtins.LookupError"} and len(found.measurement.failed) == 3 * 4


def test_calls_that_are_made_side_by_side_are_measured_in_the_order_of_their_answers(plays: Plays) -> None:
    found = plays.side_by_side
    assert not found.measurement.diverged
    for each in found.recorded:
        calls = [call for call in found.measurement.calls if call.rollout == each.request.id]
        assert [call.call for call in calls] == list(each.calls) and len(calls) == 3
        assert all(call.before.samples == 12 and isfinite(call.advantage) for call in calls)


async def test_an_agent_in_a_process_of_its_own_is_measured_too(ray_cluster: None, tmp_path: Path) -> None:
    """It is given no more than a URL and a key."""
    async with started(tmp_path, "process") as parts:
        found = await play(parts, 0, [tree.task("child")], 1, 3)
    assert not found.measurement.diverged and not found.measurement.failed
    assert all(call.before.samples == 3 and isfinite(call.advantage) for call in found.of(0))
    for rollout in found.rollouts:
        if (replay := rollout.request.replay) is not None:
            path = tuple(map(tree.SAYS.index, rollout.attempts[-1].output))
            assert path[: replay.calls] == found.paths[0][: replay.calls]
