"""A cluster of our own is this machine's and this run's alone: whoever speaks to Ray runs code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from al_ray.errors import UserError
from al_ray.machines.cluster import running
from tests.processes import ROOT, Command, process_name

CLUSTER = """
import time, ray
from al_ray.machines import cluster
with cluster.running(dashboard=True):
    @ray.remote
    def answer():
        return 42
    print("answers", ray.get(answer.remote()), ray.get_runtime_context().gcs_address, flush=True)
    time.sleep(600)
"""
JOIN = """
import sys, ray
from ray._raylet import GcsClient
print(len(GcsClient(sys.argv[1]).get_all_node_info()))
"""
TOKEN = "f" * 64


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


def test_one_that_does_not_come_up_is_told_of_in_a_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray gives its node half a minute, which a busy machine may not have."""
    started: list[subprocess.Popen[bytes]] = []

    def late(**options: object) -> None:
        started.append(subprocess.Popen(["sleep", "600"]))
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", late)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with pytest.raises(UserError, match=r"did not come up.*timed out"), running(dashboard=False):
        pass
    assert started[0].wait(10) == -signal.SIGKILL
