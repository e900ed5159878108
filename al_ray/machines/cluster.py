"""The Ray cluster that a run uses: the one named by ``RAY_ADDRESS``, else one on this machine."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from threading import Event, Thread
from types import FrameType
from typing import Any

import grpc
import psutil
import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants, services
from ray._private.grpc_utils import init_grpc_channel
from ray._private.state import actors
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.actor import ActorHandle
from ray.exceptions import RayError, RaySystemError

from al_ray.errors import Problem, UnresponsiveError, UserError
from al_ray.machines.plan import this_machine

_OBJECT_STORE_BYTES = 512 * 2**20
"""Of a local cluster: weights and rows of small models; Ray's own default is 30 % of the memory."""
_TASKS_KEPT = 10_000
"""The last calls of actors, which its dashboard tells. Ray itself keeps ten times as many, at 3 KB each."""

_START_SECONDS = 300.0
"""In which a node of ours comes up: on a busy machine, each of its processes takes long."""
_KNOCK_SECONDS = 5.0
_LOOK_SECONDS = 5.0
_COMING_SECONDS = 0.2
_END_SECONDS = 10.0
"""Until what is left of a cluster is ended."""


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Inside, Ray is connected to the cluster at ``address``, which is ``RAY_ADDRESS``. Raises ``UserError``
    if none answers there."""
    with ExitStack() as stack:
        try:
            _knock(address)
            stack.enter_context(_initialised(_init))
        except (OSError, UnicodeError) as error:  # no host has a name with an empty part
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
    options = {
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": None if dashboard else False,
        "_system_config": {"task_events_max_num_task_in_gcs": _TASKS_KEPT},
    }
    with _on_loopback(), _initialised(lambda: start_node(**options, **resources)):
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


class _NotUpError(UnresponsiveError):
    """Ray's node here does not come up."""


@contextmanager
def _patient() -> Iterator[None]:
    """A node that is started inside has ``_START_SECONDS`` to come up. Ray gives it 30, and then ends whoever
    starts it; only the function that it asks meanwhile lets it wait longer. Raises ``_NotUpError``."""
    asked = services.get_node

    def get_node(*arguments: Any) -> Any:
        ends = time.monotonic() + _START_SECONDS
        while True:
            try:
                return asked(*arguments)
            except (RuntimeError, RaySystemError) as error:  # it, or whoever would know it, is not there yet
                if time.monotonic() > ends or not _has_raylet():
                    told = f"did not come up in {_START_SECONDS:.0f} s, or was killed meanwhile"
                    raise _NotUpError(f"Ray's node here {told}: its logs are in {_logs()}") from error
                time.sleep(_COMING_SECONDS)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = asked


def _logs() -> str:
    return f"{get_default_ray_temp_dir()}/session_latest/logs"


@contextmanager
def _in_groups_of_their_own() -> Iterator[None]:
    """Ray's processes that are started inside. Whoever ends the process group of a run, as ``timeout`` does,
    means the run, which still needs them to write a checkpoint on its way out."""
    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = popen


def start_node(**options: Any) -> list[psutil.Process]:
    """Start a cluster of one node on this machine, by options of ``ray.init``, and connect to it; returns
    what was started. A node that does not come up is started anew: on a busy machine, Ray's raylet ends
    itself where its agents are not up in 15 s, which nothing changes."""
    ends = time.monotonic() + _START_SECONDS
    while True:
        before = psutil.Process().children()
        try:
            with _patient(), _in_groups_of_their_own():
                return _init(address="local", **options)
        except _NotUpError:
            started = _children_since(before)
            for process in _with_descendants(started):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(started, timeout=_END_SECONDS)
            if time.monotonic() > ends:
                raise


def _init(**options: Any) -> list[psutil.Process]:
    """Returns what was started."""
    before = psutil.Process().children()
    ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    return _children_since(before)


def _children_since(before: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child not in before]


def _has_raylet() -> bool:
    """Whether Ray's process of a node is among those that this one has started."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


@contextmanager
def _initialised(start: Callable[[], list[psutil.Process]]) -> Iterator[None]:
    """Inside, Ray is connected, by ``start``, which returns what it started, and SIGTERM, from ``ray job
    stop``, Kubernetes or a batch system, ends a run as Ctrl-C does, unless somebody has seen to it before. To
    be called in the main thread. Afterwards nothing is left of what was started."""
    on_terminate = signal.getsignal(signal.SIGTERM)
    started = start()
    # Ray's own handler, set by now, ends the process at once.
    signal.signal(signal.SIGTERM, on_terminate if callable(on_terminate) else _interrupt)
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
        try:
            if here in node_ids():
                continue
        except RayError:  # it does not answer just now, which says nothing of the node
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


def has_process(actor: ActorHandle[Any]) -> bool:
    """Whether Ray has found a place for it, and started a process there. One that does not even come to ask
    for its actor is ended by Ray after a minute, and followed by another."""
    return bool(actors(actor._actor_id.hex()).get("Pid"))


def node_ids() -> set[str]:
    """The nodes that are there, as far as Ray knows."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _with_descendants(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [each for process in processes for each in (process, *_descendants(process))]


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _interrupt(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C, where somebody heeds that: asyncio cancels the main task alone, which can still end what is
    under way; raised here, all that is would be cancelled with it."""
    heeded = signal.getsignal(signal.SIGINT)
    (heeded if callable(heeded) else signal.default_int_handler)(number, frame)


def _knock(address: str) -> None:
    """Raises ``OSError`` where nobody listens, or somebody who does not speak as Ray does: Ray itself would
    go on trying for minutes."""
    if address == "auto":
        found = services.get_ray_address_from_environment(address, None)
        try:
            return _knock(found)
        except OSError as error:
            raise OSError(f"Ray has recorded that the last cluster here is at {found}; {error}") from error
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
