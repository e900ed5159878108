"""A whole run with the real parts on nodes that join and are taken away; only the engines have no model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray

from al_ray.database.query import Query
from al_ray.database.reader import Records
from al_ray.reports import jsonl_sink
from al_ray.run.folder import RunFolder
from al_ray.types import RolloutStatus
from tests.support.machines.nodes import alive, drain, headed, joined
from tests.support.machines.processes import Command, process_name, run_here
from tests.support.runs import toy

pytestmark = pytest.mark.slow

HELD = """
import asyncio, pathlib
import toy_agent

async def solve(task, llm):
    while pathlib.Path({held!r}).exists():
        await asyncio.sleep(0.1)
    return await toy_agent.solve(task, llm)
"""


@pytest.fixture
def address() -> Iterator[str]:
    """Of a cluster whose only node, the driver's, has no cores."""
    with headed(ray.util.get_node_ip_address()) as address:
        yield address


def started(node: Command, actor: str) -> list[int]:
    """The processes of such actors on a node."""
    return [pid for pid in node.alive() if process_name(pid).startswith(f"ray::{actor}")]


def test_a_run_grows_into_a_node_and_goes_on_when_the_one_of_its_learner_is_taken_away(
    tmp_path: Path, tiny_model: Path, address: str
) -> None:
    """With an engine, and with a runner. There is a checkpoint of what it had learnt, though none was due; no
    rollout is lost or run twice."""
    held = tmp_path / "held"
    toy.write_code(tmp_path)
    (tmp_path / "held_agent.py").write_text(HELD.format(held=str(held)))
    content = toy.recipe(tiny_model, tmp_path / "out")
    content["agent"] |= {"run": "held_agent:solve", "timeout": 600, "concurrency": 2, "max_runners": 2}
    content["gateway"] = {"host": "0.0.0.0"}
    content["stages"] = [{**content["stages"][1], "steps": 3}]
    content["checkpoint"] = {"every": 100}
    content["engines"] |= {"replicas": 1, "max_replicas": 2}
    content["placement"] |= {"layout": "disaggregated"}
    toy.write_recipe(tmp_path, content)
    folder = RunFolder(tmp_path / "out" / "toy" / "a")
    training = ["tests.support.runs.without_vllm", "train", "toy.yaml", "--run", "a"]
    with ExitStack() as stack, ExitStack() as spot:
        first, of_first = spot.enter_context(joined(address, tmp_path, 2))
        command = Command(training, tmp_path, RAY_ADDRESS=address, RAY_AUTH_MODE="disabled")
        stack.enter_context(command)
        command.wait_until(lambda: any("optim/loss" in line for line in jsonl_sink.read(folder.path)))
        held.touch()
        _, of_second = stack.enter_context(joined(address, tmp_path, 2))
        command.wait_until(lambda: bool(started(of_second, "SpeakingEngine")), what="an engine there")
        command.wait_until(lambda: bool(started(of_second, "Runner")), what="a runner there")
        stack.enter_context(joined(address, tmp_path, 2))

        drain(address, first, 600)
        command.wait_until(lambda: bool(folder.checkpoints()), what="a checkpoint")
        assert "Ray takes the node of learners away in" in command.output
        command.wait_until(
            lambda: not started(of_first, "SpeakingEngine"), what="the engine on the first node to leave it"
        )
        assert first in alive(address)
        [saved] = folder.checkpoints()
        spot.close()
        held.unlink()
        assert command.wait(600) == 0, command.output
        assert f"resumed after step {saved}" in command.output
    steps = [line["step"] for line in jsonl_sink.read(folder.path) if "optim/loss" in line]
    assert steps == [1, 2, 3] and saved in (1, 2)
    records = Records(folder.store_url)
    found = records.find_rollouts(Query([])).items
    records.close()
    assert {rollout.status for rollout in found} == {RolloutStatus.SUCCEEDED}
    assert {len(rollout.attempts) for rollout in found} == {1}
    workers = {str(attempt.worker) for rollout in found for attempt in rollout.attempts}
    assert {worker.rpartition("-")[0] for worker in workers} == {"runner-0", "runner-1"}
    code, told = run_here(["audit", folder.path], tmp_path)
    assert code == 0 and "each is trained once" in told, told
