"""A whole run whose node with the learner is gone at each of its moments; only the engines have no model."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray

from tests.support.machines.nodes import alive, headed, joined
from tests.support.machines.processes import Command
from tests.support.runs.moments import Fault, Trial

pytestmark = pytest.mark.slow

MOMENTS = ("rollouts", "weights", "update", "checkpoint", "evaluation")
CORES = 2
"""Learners and engines ask for all of a node, a runner for one."""


class Nodes:
    """Two at first, for an engine and for a learner. The first on the next one is a runner that nobody waits
    for, which must leave it to the learner."""

    def __init__(self, address: str, folder: Path, stack: ExitStack) -> None:
        self._address, self._folder, self._stack = address, folder, stack
        self._commands: list[Command] = []
        self.join()
        self.join()

    def join(self) -> None:
        _, command = self._stack.enter_context(joined(self._address, self._folder, CORES))
        self._commands.append(command)

    def kill(self, pid: int, written: int) -> None:
        """All processes of the node of this one, at once."""
        [command] = [each for each in self._commands if pid in each.alive()]
        for each in command.alive():
            os.kill(each, signal.SIGKILL)
        self._commands.remove(command)
        self.join()


def test_a_run_goes_on_though_a_node_is_gone_at_whatever_moment(tmp_path: Path, tiny_model: Path) -> None:
    """It ends as if nothing had happened: each rollout ended once, each token was trained once, and the
    weights are those that the same rollouts make undisturbed."""
    with ExitStack() as stack:
        address = stack.enter_context(headed(ray.util.get_node_ip_address()))
        nodes = Nodes(address, tmp_path, stack)
        changes = {
            "agent": {"max_runners": 2},
            "gateway": {"host": "0.0.0.0"},
            "engines": {"replicas": 1},
            "placement": {"layout": "disaggregated"},
        }
        trial = Trial(
            tmp_path,
            tiny_model,
            6,
            changes=changes,
            deeds={"its node gone": nodes.kill},
            RAY_ADDRESS=address,
            RAY_AUTH_MODE="disabled",
        )
        code, told = trial.live([Fault(moment, "its node gone", ["learner"]) for moment in MOMENTS])
        assert code == 0, told
        assert trial.mistakes() == []
        assert len(alive(address)) == 3
