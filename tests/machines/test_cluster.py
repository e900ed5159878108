"""A cluster of our own is this machine's and this run's alone: whoever speaks to Ray runs code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from unittest.mock import Mock

import psutil
import pytest
from ray._private import services
from ray.exceptions import RaySystemError

from al_ray.cli.app import main
from al_ray.errors import UserError
from al_ray.machines import cluster as machines_cluster
from al_ray.machines.cluster import joined
from tests.support.machines.processes import ROOT, Command, process_name

CLUSTER = """
import time, ray
from ray._raylet import Config
from al_ray.machines import cluster
with cluster.running(dashboard=True):
    @ray.remote
    def answer():
        return 42
    print("keeps", Config.task_events_max_num_task_in_gcs())
    print("answers", ray.get(answer.remote()), ray.get_runtime_context().gcs_address, flush=True)
    time.sleep(600)
"""
SLOWLY = """
import time
from ray._private import services

ask, asked_first = services.get_node, time.monotonic()

def get_node(*arguments):
    if time.monotonic() < asked_first + 45:
        raise RuntimeError("This node has not come up.")
    return ask(*arguments)

services.get_node = get_node
"""
JOIN = """
import sys, ray
from ray._raylet import GcsClient
print(len(GcsClient(sys.argv[1]).get_all_node_info()))
"""
TOKEN = "f" * 64


def test_an_address_that_can_be_nobodys_is_refused() -> None:
    """Its host has an empty part, or its port is none."""
    for address in ("head..cluster:6379", "127.0.0.1:637900"):
        told = rf"RAY_ADDRESS: '{address}': no cluster answers there"
        with pytest.raises(UserError, match=told), joined(address):
            raise AssertionError("never reached")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Command, str]]:
    """A process that runs a cluster of its own, and the cluster's address."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "started.py").write_text(CLUSTER)
    with Command(["started"], folder, PYTHONPATH=f"{folder}:{ROOT}", RAY_AUTH_TOKEN=TOKEN) as command:
        command.wait_until(lambda: "answers 42" in command.output)
        yield command, command.output.split("answers 42 ")[1].split()[0]


def test_it_listens_on_this_machine_alone(cluster: tuple[Command, str]) -> None:
    command, _ = cluster
    pids = set(command.alive())
    listening = [c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.pid in pids]
    assert len(listening) > 4
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_ray_keeps_the_last_ten_thousand_tasks(cluster: tuple[Command, str]) -> None:
    """What it keeps of all that actors were called would grow for hours."""
    command, _ = cluster
    assert "keeps 10000\n" in command.output


@pytest.mark.parametrize("token", [None, "e" * 64, TOKEN])
def test_nobody_speaks_to_it_without_its_token(
    cluster: tuple[Command, str], token: str | None, tmp_path: Path
) -> None:
    """Nor with another."""
    _, address = cluster
    mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address],
        env={"PATH": "", "HOME": str(tmp_path), **mode},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if token == TOKEN:
        assert done.stdout.strip() == "1", done.stderr
    else:
        assert done.returncode == 1 and "InvalidAuthToken" in done.stderr


def test_who_runs_a_cluster_ends_with_its_node_and_leaves_nothing(tmp_path: Path) -> None:
    """Ray's actors are gone, and no other can be had: nothing would ever end."""
    (tmp_path / "started.py").write_text(CLUSTER)
    with Command(["started"], tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}") as command:
        command.wait_until(lambda: "answers 42" in command.output)
        [raylet] = [pid for pid in command.alive() if "/raylet/raylet " in process_name(pid)]
        os.kill(raylet, signal.SIGKILL)
        assert command.wait(120) == 1
        assert "error: Ray's node here is gone" in command.output and "--resume" in command.output
        command.wait_until_nothing_is_left()


def test_a_node_that_is_lost_as_it_comes_up_is_started_anew(tmp_path: Path) -> None:
    """As Ray itself ends it on a busy machine, where its agents are not up in 15 s. Nothing is left of it."""
    (tmp_path / "started.py").write_text(CLUSTER.replace("600", "0"))
    with Command(["started"], tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}") as command:
        raylets: list[int] = []

        def started() -> bool:
            raylets[:] = [pid for pid in command.alive() if "/raylet/raylet " in process_name(pid)]
            return bool(raylets)

        command.wait_until(started)
        os.kill(raylets[0], signal.SIGKILL)
        assert command.wait() == 0, command.output
        assert "answers 42" in command.output
        command.wait_until_nothing_is_left()


def test_a_node_may_take_longer_to_come_up_than_ray_waits_for_it(tmp_path: Path) -> None:
    """As on a busy machine: here for as long as Ray waits, and a little more."""
    (tmp_path / "started.py").write_text(SLOWLY + CLUSTER.replace("600", "0"))
    with Command(["started"], tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}") as command:
        assert command.wait() == 0, command.output
        assert "answers 42" in command.output


def test_a_node_that_does_not_come_up_at_all_is_told_with_its_logs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line: whoever ran the command sees no traceback of a machine that is too busy."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which the command adds
    monkeypatch.setattr(machines_cluster, "_START_SECONDS", 0.0)
    monkeypatch.setattr(services, "get_node", Mock(side_effect=RuntimeError("nobody is there yet")))
    monkeypatch.setattr(machines_cluster, "_init", lambda **_: services.get_node())
    monkeypatch.setattr("al_ray.cli.app.app", machines_cluster.start_node)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "error: Ray's node here did not come up in 0 s" in (told := capsys.readouterr().err)
    assert "session_latest/logs" in told


def test_a_recorded_cluster_that_is_gone_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would ask for minutes at the address that the last ``ray start`` here has left."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    (tmp_path / "ray_current_cluster").write_text(address)
    monkeypatch.setattr("ray._common.utils.get_default_ray_temp_dir", lambda: str(tmp_path))
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("al_ray.machines.cluster._init", lambda: pytest.fail("Ray is asked"))
    told = rf"RAY_ADDRESS: 'auto': no cluster answers there .* is at {address}; .*refused"
    with pytest.raises(UserError, match=told), joined("auto"):
        pass
    (tmp_path / "ray_current_cluster").unlink()
    with pytest.raises(UserError, match=r"'auto': .*Could not find any running Ray"), joined("auto"):
        pass


def test_where_ray_does_not_answer_once_its_node_is_watched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends all the same when the node is gone later."""
    looks = iter([{"here"}, RaySystemError("the GCS does not answer"), {"here"}, set()])

    def look() -> set[str]:
        told = next(looks)
        if isinstance(told, RaySystemError):
            raise told
        return told

    ended = Mock(side_effect=SystemExit)
    here = Mock(get_runtime_context=lambda: Mock(get_node_id=lambda: "here"))
    monkeypatch.setattr(machines_cluster, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(machines_cluster, "ray", here)
    monkeypatch.setattr(machines_cluster, "node_ids", look)
    monkeypatch.setattr(machines_cluster, "log_folder", lambda: "logs")
    monkeypatch.setattr(os, "_exit", ended)
    with pytest.raises(SystemExit):
        machines_cluster._end_without_node(Event(), [])
    ended.assert_called_once_with(1)
