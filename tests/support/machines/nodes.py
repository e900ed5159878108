"""A cluster of several nodes, or more of them for one that a test has, and their end as a cloud brings it
about."""

from __future__ import annotations

import os
import shutil
import socket
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from tests.support.machines.hosts import Host
from tests.support.machines.processes import Command

RAY = "tests.support.machines.light_ray"
_STORE_BYTES = 80_000_000
_Up = TypeVar("_Up")
_TRIES = 5
"""On a busy machine: Ray itself gives a node up that is not there after 30 s."""


def alive(address: str) -> set[str]:
    """The ids of the nodes of the cluster at ``address``."""
    found = GcsClient(address).get_all_node_info()
    return {node.node_id.hex() for node in found.values() if node.state == 0}


def _at_last(stack: ExitStack, start: Callable[[], _Up]) -> _Up:
    """What ``start`` returns of what it has put in ``stack``, after some that did not come up."""
    for _ in range(_TRIES - 1):
        try:
            return start()
        except AssertionError:
            stack.close()
    return start()


@contextmanager
def headed(ip: str, **variables: str) -> Iterator[str]:
    """The address of a cluster whose only node, the driver's, which is at ``ip``, has no cores."""
    with ExitStack() as stack:

        def start() -> str:
            port = _free_port(ip)
            command = stack.enter_context(_heading(ip, port, stack, variables))
            command.wait_until(lambda: "--block" in command.output)
            return f"{ip}:{port}"

        yield _at_last(stack, start)


def _heading(ip: str, port: int, stack: ExitStack, variables: Mapping[str, str]) -> Command:
    scratch = Path(tempfile.mkdtemp(prefix="ray-"))  # sockets lie below it, and their paths may not be long
    stack.callback(shutil.rmtree, scratch, ignore_errors=True)
    options = {
        "node-ip-address": ip,
        "port": port,
        "include-dashboard": "false",
        "num-cpus": 0,
        "object-store-memory": _STORE_BYTES,
        "temp-dir": scratch,
    }
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    arguments = [RAY, "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
    return Command(arguments, scratch, PATH=path, RAY_AUTH_MODE="disabled", **variables)


def _free_port(ip: str) -> int:
    with socket.socket() as free:
        free.bind((ip, 0))
        return int(free.getsockname()[1])


@contextmanager
def joined(address: str, folder: Path, cpus: int, host: Host | None = None) -> Iterator[tuple[str, Command]]:
    """A node with so many cores, from now on, by its id, and the command that it is; on this machine, or on
    ``host``. It is killed in the end, which the cluster knows afterwards."""
    with ExitStack() as stack:

        def start() -> tuple[str, Command]:
            before = alive(address)
            command = stack.enter_context(_starting(address, folder, cpus, host))
            command.wait_until(lambda: bool(alive(address) - before))
            [node] = alive(address) - before
            return node, command

        node, command = _at_last(stack, start)
        yield node, command
    deadline = time.monotonic() + 120
    while node in alive(address):
        assert time.monotonic() < deadline, f"node {node} was killed, and is there after 120 s"
        time.sleep(0.2)


def _starting(address: str, folder: Path, cpus: int, host: Host | None) -> Command:
    options = {"address": address, "num-cpus": cpus, "object-store-memory": _STORE_BYTES}
    if host is not None:
        options["node-ip-address"] = host.address
    arguments = [RAY, "start", "--block", *(f"--{name}={value}" for name, value in options.items())]
    return Command(arguments, folder, () if host is None else host.inside, RAY_AUTH_MODE="disabled")


def drain(address: str, node: str, seconds: float) -> None:
    """What a cloud's notice comes to, ``ray drain-node``: the node is to go in so many seconds."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    until = int((time.time() + seconds) * 1000)
    accepted, why = GcsClient(address).drain_node(node, reason, "taken back", until)
    assert accepted, why
