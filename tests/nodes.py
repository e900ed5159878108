"""More nodes for a cluster that a test has, and their end as a cloud brings it about."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from tests.processes import Command

RAY = "ray.scripts.scripts"
_TRIES = 5
"""On a busy machine: Ray itself gives a node up whose agent is not there after 15 s."""


def alive(address: str) -> set[str]:
    """The ids of the nodes of the cluster at ``address``."""
    found = GcsClient(address).get_all_node_info()
    return {node.node_id.hex() for node in found.values() if node.state == 0}


@contextmanager
def joined(address: str, folder: Path, cpus: int) -> Iterator[tuple[str, Command]]:
    """A node with so many cores, from now on, by its id, and the command that it is. It is killed in the end,
    which the cluster knows afterwards."""
    with ExitStack() as stack:
        for _ in range(_TRIES):
            before = alive(address)
            command = stack.enter_context(_starting(address, folder, cpus))
            try:
                command.wait_until(lambda: bool(alive(address) - before))  # noqa: B023
                break
            except AssertionError:
                stack.close()
        [node] = alive(address) - before
        yield node, command
    deadline = time.monotonic() + 120
    while node in alive(address):
        assert time.monotonic() < deadline, f"node {node} was killed, and is there after 120 s"
        time.sleep(0.2)


def _starting(address: str, folder: Path, cpus: int) -> Command:
    options = {
        "address": address,
        "num-cpus": cpus,
        "object-store-memory": 80_000_000,
        "include-log-monitor": "false",  # nobody reads its logs
    }
    arguments = [RAY, "start", "--block", *(f"--{name}={value}" for name, value in options.items())]
    return Command(arguments, folder, RAY_AUTH_MODE="disabled")


def drain(address: str, node: str, seconds: float) -> None:
    """What a cloud's notice comes to, ``ray drain-node``: the node is to go in so many seconds."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    until = int((time.time() + seconds) * 1000)
    accepted, why = GcsClient(address).drain_node(node, reason, "taken back", until)
    assert accepted, why
