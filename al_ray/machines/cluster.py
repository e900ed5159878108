"""The Ray cluster that a run uses: the one named by ``RAY_ADDRESS``, else one on this machine."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Thread
from types import FrameType
from typing import Any

import grpc
import psutil
import ray
from ray._private import ray_constants
from ray._private.grpc_utils import init_grpc_channel
from ray._raylet import Config  # type: ignore[attr-defined]

from al_ray.errors import Problem, UserError
from al_ray.machines.plan import this_machine

_OBJECT_STORE_BYTES = 512 * 2**20
"""Of a local cluster: weights and rows of small models; Ray's own default is 30 % of the memory."""

_KNOCK_SECONDS = 5.0
_LOOK_SECONDS = 5.0
_END_SECONDS = 10.0
"""Until what is left of a cluster is ended."""


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Inside, Ray is connected to the cluster at ``address``, which is ``RAY_ADDRESS``. Raises ``UserError``
    if none answers there."""
    with ExitStack() as stack:
        try:
            _knock(address)
            stack.enter_context(_initialised())
        except OSError as error:
            cure = f"no cluster answers there (where it needs a token, set RAY_AUTH_MODE=token): {error}"
            raise UserError(Problem("RAY_ADDRESS", address, cure)) from error
        yield


@contextmanager
def running(*, dashboard: bool) -> Iterator[None]:
    """Inside, there is a cluster: the one that was joined, else one on this machine, which ends with it, with
    or without Ray's dashboard.

    Whoever speaks to Ray runs code. So a cluster of our own listens on this machine alone, and asks for a
    token that only its processes know; ``RAY_AUTH_TOKEN`` may give it, ``RAY_AUTH_MODE`` disables it.
    """
    if ray.is_initialized():
        yield
        return
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # Ray has read the mode already
    # Ray would else make one and leave it in a file, for every later cluster.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    [here] = this_machine()
    # What a plan was made for is what there is.
    resources = {"num_cpus": here.cpus, "num_gpus": here.gpus}
    with (
        _on_loopback(),
        _initialised(
            address="local",
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=None if dashboard else False,
            **resources,
        ),
    ):
        yield


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A cluster that is started inside listens on 127.0.0.1, as Ray lets it by itself on other systems than
    Linux. The variable is for its processes; this one has read it already."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


@contextmanager
def _initialised(**options: Any) -> Iterator[None]:
    """Inside, SIGTERM, from ``ray job stop``, Kubernetes or a batch system, ends a run as Ctrl-C does. To be
    called in the main thread. Afterwards nothing is left of a cluster that was started. Raises ``UserError``
    where it did not come up."""
    on_terminate = signal.getsignal(signal.SIGTERM)
    before = psutil.Process().children()
    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    except Exception as error:
        if type(error) is not Exception:  # as Ray says that its node did not come up
            raise
        for process in _with_descendants(_children_since(before)):
            process.kill()
        cure = f"did not come up: is the machine short of memory, or very busy? {error}"
        raise UserError(Problem("Ray", "on this machine", cure)) from error
    started = _children_since(before)
    signal.signal(signal.SIGTERM, _interrupt)  # Ray's own handler, set by now, ends the process at once
    left = Event()
    Thread(target=_end_without_node, args=(left, started), daemon=True).start()
    try:
        yield
    finally:
        left.set()
        # Ray's shutdown does not wait for what its own processes started.
        family = _with_descendants(started)
        ray.shutdown()
        _, alive = psutil.wait_procs(family, timeout=_END_SECONDS)
        for process in alive:
            process.kill()
        signal.signal(signal.SIGTERM, on_terminate)


def _end_without_node(left: Event, started: Sequence[psutil.Process]) -> None:
    """End this process, and what is left of a cluster that it started, when Ray's node here is gone: nothing
    that waits for an actor would hear of it, nor could any be replaced."""
    here = ray.get_runtime_context().get_node_id()
    while not left.wait(_LOOK_SECONDS):
        if here in node_ids():
            continue
        why = f"Ray's node here is gone: it was killed, or the memory was full; {log_folder()} says more"
        print(
            f"error: {why}. A run goes on from its last checkpoint with --resume.",
            file=sys.stderr,
            flush=True,
        )
        for process in _with_descendants(started):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        os._exit(1)


def node_ids() -> set[str]:
    """The nodes that are there, as far as Ray knows."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _children_since(before: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child not in before]


def _with_descendants(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [each for process in processes for each in (process, *_descendants(process))]


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _knock(address: str) -> None:
    """Raises ``OSError`` where nobody listens, or somebody who does not speak as Ray does: Ray itself would
    go on trying for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"[\w.-]+|\[[\w:.]+\]", host) or not port.isdecimal():
        cure = "must be the head's host:port (often port 6379), or auto; another machine's cluster is "
        raise UserError(Problem("RAY_ADDRESS", address, cure + "used by `ray job submit`"))
    socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    channel = init_grpc_channel(address)
    try:
        grpc.channel_ready_future(channel).result(timeout=_KNOCK_SECONDS)
    except grpc.FutureTimeoutError as error:
        raise OSError("what listens there does not speak gRPC, as a head does: is this its port?") from error
    finally:
        channel.close()


def log_folder() -> str:
    """Where the logs of this node's actors are."""
    return os.path.join(ray._private.worker.global_worker.node.get_session_dir_path(), "logs")
