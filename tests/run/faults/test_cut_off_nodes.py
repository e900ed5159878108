"""Whole runs with the real parts over several machines, each with a network of its own, some of which are cut
off and come back; only the engines have no model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.reports import jsonl_sink
from al_ray.rollouts.requests import step_batch
from al_ray.run.folder import RunFolder
from al_ray.types import AttemptStatus, Rollout, RolloutStatus
from tests.conftest import write_tiny_model
from tests.support.machines.hosts import Network, network
from tests.support.machines.nodes import alive, headed, joined
from tests.support.machines.processes import Command, process_name, run
from tests.support.runs import toy

pytestmark = pytest.mark.slow

CODE = """
import asyncio, pathlib, random
import toy_agent

here = pathlib.Path({here!r})

async def solve(task, llm):
    (here / "asked").touch()
    while done() >= int((here / "until").read_text()):
        await asyncio.sleep(0.1)
    return await toy_agent.solve(task, llm)

def done():
    metrics = here / "out" / "toy" / "a" / "metrics.jsonl"
    return metrics.read_text().count('"optim/loss":') if metrics.exists() else 0

def score(task, output):
    return random.random()
"""
"""All say the same: what they are worth differs, so that there is something to learn."""
STEPS = 6

HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
}
"""Ray takes a node for dead that has not answered for about 13 s, instead of a minute."""
SHORT = 3.0


@pytest.fixture(scope="module")
def machines() -> Iterator[Network]:
    """Two beside this one."""
    with network(2) as there:
        yield there


@pytest.fixture(scope="module")
def address(machines: Network) -> Iterator[str]:
    """Of a cluster whose only node, the driver's, has no cores."""
    with headed(machines.here, **HEALTH) as found:
        yield found


@dataclass(frozen=True, slots=True)
class Training:
    """A run that waits with the rollouts of the next step when it has done as many as it may."""

    path: Path

    def prepare(self, model: Path, steps: int, **engines: Any) -> None:
        """It may do so many steps."""
        self.may_do(steps)
        toy.write_code(self.path)
        (self.path / "waiting_agent.py").write_text(CODE.format(here=str(self.path)))
        content = toy.recipe(model, self.path / "out")
        content["agent"] |= {"run": "waiting_agent:solve", "evaluate": "waiting_agent:score"}
        content["agent"]["timeout"] = 600
        content["stages"] = [{**content["stages"][1], "steps": STEPS, "groups_per_step": 3}]
        content["checkpoint"] = {"every": 1}
        content["engines"] |= engines
        toy.write_recipe(self.path, content)

    def command(self, address: str) -> Command:
        training = ["tests.support.runs.without_vllm", "train", "toy.yaml", "--run", "a"]
        return Command(training, self.path, RAY_ADDRESS=address, RAY_AUTH_MODE="disabled")

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path / "out" / "toy" / "a")

    def may_do(self, steps: int) -> None:
        (self.path / "until.new").write_text(str(steps))
        (self.path / "until.new").replace(self.path / "until")

    def may_end(self) -> None:
        self.may_do(STEPS + 1)

    def rollouts(self, batch: str = "") -> Sequence[Rollout]:
        """What the store holds by now."""
        if not (self.folder.path / "store.sqlite").exists():
            return ()
        records = Records(self.folder.store_url)
        found = records.find_rollouts(Query([Condition("batch", "prefix", batch)])).items
        records.close()
        return found

    def has_done(self, steps: int) -> bool:
        """Whether the rollouts after so many have been asked for: engines have what was learnt in them."""
        return steps in self.steps() and bool(self.rollouts(step_batch(steps)))

    def steps(self) -> list[int]:
        """Those that have been told."""
        return [line["step"] for line in jsonl_sink.read(self.folder.path) if "optim/loss" in line]

    def audit(self) -> None:
        """Each rollout succeeded, and each token of it is accounted for."""
        found = self.rollouts()
        assert {rollout.status for rollout in found} == {RolloutStatus.SUCCEEDED}
        attempts = [attempt for rollout in found for attempt in rollout.attempts]
        # A lease is lost where the machine is too busy for a runner to renew it.
        fine = {AttemptStatus.SUCCEEDED, AttemptStatus.UNRESPONSIVE}
        assert {attempt.status for attempt in attempts} <= fine, attempts
        code, told = run(["al_ray", "audit", str(self.folder.path)], self.path)
        assert code == 0 and "each is trained once" in told, told


def engines(node: Command) -> set[int]:
    """Those on a node that have been started."""
    return {pid for pid in node.alive() if process_name(pid).startswith("ray::SpeakingEngine")}


def test_weights_cross_to_a_node_once_and_the_run_goes_on_without_it_and_with_it_again(
    tmp_path: Path, machines: Network, address: str
) -> None:
    """Two engines are there, and one beside the learner. The node is cut off in the midst of rollouts, for a
    moment, in which nothing is lost, and until it is taken for dead."""
    model = tmp_path / "model"
    write_tiny_model(model, intermediate_size=8192)
    size = (model / "model.safetensors").stat().st_size
    of_learner, of_engines = machines.hosts
    training = Training(tmp_path)
    training.prepare(model, 0, replicas=1, max_replicas=3)
    with ExitStack() as stack, ExitStack() as gone:
        stack.enter_context(joined(address, tmp_path, 1, of_learner))
        command = stack.enter_context(training.command(address))
        command.wait_until((tmp_path / "asked").exists, what="the first rollouts")
        node, second = gone.enter_context(joined(address, tmp_path, 2, of_engines))
        command.wait_until(lambda: len(engines(second)) == 2, what="two engines")

        before = of_engines.received()
        training.may_do(2)
        command.wait_until(lambda: training.has_done(2), what="two steps")
        # Engines that came up late have loaded the newest alone.
        command.wait_until(lambda: of_engines.received() - before >= size, what="weights")
        assert (of_engines.received() - before) / size < 3

        there = engines(second)
        of_engines.pull()
        training.may_do(3)
        time.sleep(SHORT)
        of_engines.plug()
        command.wait_until(lambda: training.has_done(3), what="a step over a cable that was pulled")
        assert node in alive(address) and engines(second) == there

        of_engines.pull()
        training.may_do(4)
        command.wait_until(lambda: training.has_done(4), what="a step without the node")
        command.wait_until(lambda: node not in alive(address), what="that Ray knows it")
        of_engines.plug()
        second.wait()
        second.wait_until_nothing_is_left()
        _, again = stack.enter_context(joined(address, tmp_path, 2, of_engines))
        command.wait_until(lambda: len(engines(again)) == 2, what="two engines again")
        training.may_end()
        assert command.wait(600) == 0, command.output
        assert "going on from the last checkpoint" not in command.output
    assert training.steps() == [*range(1, STEPS + 1)]
    training.audit()


def test_a_run_whose_learner_is_cut_off_goes_on_from_its_last_checkpoint_on_another_node(
    tmp_path: Path, tiny_model: Path, machines: Network, address: str
) -> None:
    """With it the only engine is gone, and the weights that both had. What was cut off ends by itself."""
    first, second = machines.hosts
    training = Training(tmp_path)
    training.prepare(tiny_model, 2)
    with ExitStack() as stack:
        _, lost = stack.enter_context(joined(address, tmp_path, 1, first))
        command = stack.enter_context(training.command(address))
        command.wait_until(lambda: training.has_done(2), what="two steps")
        first.pull()
        training.may_do(3)
        stack.enter_context(joined(address, tmp_path, 1, second))
        command.wait_until(lambda: training.has_done(3), what="a step on another node")
        assert "going on from the last checkpoint" in command.output
        assert "resumed after step 2" in command.output
        first.plug()
        lost.wait()
        lost.wait_until_nothing_is_left()
        training.may_end()
        assert command.wait(600) == 0, command.output
    assert training.steps() == [*range(1, STEPS + 1)]
    training.audit()
