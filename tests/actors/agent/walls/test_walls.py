"""What an agent within walls tries, and that it comes to nothing: in bubblewrap, and in a container where
this machine runs one."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import ray

from al_ray.actors.agent.walls import wall
from al_ray.errors import RecipeError
from al_ray.recipe import AgentSection, SandboxSection
from al_ray.traces import semconv
from al_ray.types import AttemptStatus, Rollout, RolloutStatus, SpanKind
from tests.actors.agent.walls.container_image import podman_image
from tests.support.houses.runner import House, alive, house_of, until
from tests.support.machines.bubblewrap import NOT_HERE, builds_walls

HERE = Path(__file__).parent
COMMAND = ["python3", "/agent/attacks.py"]
LIMITS = {"memory_mib": 200, "processes": 20, "disk_mib": 8, "cpus": 0.5}
TIMEOUT = 20.0
SECRET = "a secret of the driver's"
SURROUNDINGS = {"PGPASSWORD": SECRET, "AL_RAY_COLLECTOR_KEY": SECRET, "RAY_AUTH_TOKEN": SECRET}


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Its URL; it stands where the gateway would, and a service, and what is not to be reached."""
    with ThreadingHTTPServer(("0.0.0.0", 0), Answering) as made:
        Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


@pytest.fixture(scope="module", params=["bubblewrap", "podman"])
def sandbox(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The recipe's section, of walls that can be had here."""
    section = {"wall": request.param, **LIMITS}
    if request.param == "podman":
        section["image"] = podman_image() or pytest.skip("no container can be run here")
    try:
        wall.try_out(AgentSection(isolation="command", command=COMMAND, sandbox=section))
    except RecipeError as error:
        pytest.skip(str(error))
    return section


@pytest.fixture(scope="module")
def walled(
    ray_cluster: None, tmp_path_factory: pytest.TempPathFactory, server: str, sandbox: dict[str, Any]
) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("walled")
    folder.chmod(0o755)
    (folder / "mounted").mkdir()
    (folder / "mounted" / "given").write_text("seen")
    yield from house_of(
        folder,
        f"{server}/v1",
        SURROUNDINGS,
        {"search": server},
        timeout=TIMEOUT,
        concurrency=4,
        **agent_of(sandbox | {"mounts": {"/mounted": str(folder / "mounted")}}),
    )


def agent_of(sandbox: dict[str, Any]) -> dict[str, Any]:
    judge = "tests.support.agents.wild:see_and_judge"
    agent = {"isolation": "command", "command": COMMAND, "folder": str(HERE), "evaluate": judge}
    return {**agent, "sandbox": sandbox, "grace": 1.0}


async def got(house: House, **task: Any) -> Any:
    """What an attack came to."""
    rollout = await house.rollout(task)
    assert rollout.status is RolloutStatus.SUCCEEDED, rollout.attempts[0].error
    return rollout.attempts[0].output["got"]


def error(rollout: Rollout) -> str:
    assert rollout.attempts[0].status is AttemptStatus.FAILED, rollout.attempts[0].status
    return rollout.attempts[0].error or ""


async def test_the_gateway_and_the_services_are_reached(walled: House) -> None:
    assert await got(walled, do="call") == [200, 200]


async def test_it_sees_what_is_mounted_and_neither_files_nor_processes_of_this_machine(
    walled: House, tmp_path: Path
) -> None:
    """Not the store, the driver's environment, keys of other attempts or what lies in its home."""
    store = next(Path(walled_folder(walled)).glob("store*"))
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    pid = os.getpid()
    paths = [store, secret, f"/proc/{pid}/environ", f"/proc/{pid}/root/etc/passwd", "/root", "/etc/shadow"]
    here = [str(path) for path in (*paths, Path.home() / ".netrc", __file__)]
    assert await got(walled, do="read", paths=[*here, "/mounted/given"]) == ["/mounted/given"]
    assert (
        await got(walled, do="list_all", names=["store", "secret", "outputs", ".ssh", "store.sqlite"]) == []
    )


def walled_folder(house: House) -> str:
    ray.get(house.store.ping.remote())  # its file is there by then
    url: str = ray.get(house.store.__ray_call__.remote(lambda store: store._url))
    return str(Path(url.removeprefix("sqlite:///")).parent)


async def test_two_attempts_at_once_do_not_see_each_others_keys(walled: House) -> None:
    one, other = await walled.rollouts({"do": "see"}, {"do": "see"})
    seen = [str(rollout.attempts[0].output) for rollout in (one, other)]
    keys = [rollout.attempts[0].key for rollout in (one, other)]
    assert [[key in text for text in seen] for key in keys] == [[True, False], [False, True]]
    assert SECRET not in "".join(seen)


async def test_it_reaches_neither_ray_nor_this_machine_nor_the_internet(walled: House, server: str) -> None:
    _, _, port = server.rpartition(":")
    host, _, ray_port = ray.get_runtime_context().gcs_address.rpartition(":")
    name = f"@al-ray-{secrets.token_hex(4)}"
    own = socket.gethostbyname(socket.gethostname())
    with socket.socket(socket.AF_UNIX) as nameless:
        nameless.bind("\0" + name[1:])
        nameless.listen()
        addresses = [(host, int(ray_port)), ("127.0.0.1", int(ray_port)), ("127.0.0.1", int(port))]
        addresses += [(own, int(port)), ("1.1.1.1", 53), ("169.254.169.254", 80), ("10.0.2.2", int(port))]
        sockets = [name, "/var/run/docker.sock", "/run/podman/podman.sock"]
        assert await got(walled, do="reach", addresses=addresses, sockets=sockets) == []


async def test_it_meddles_with_nobody_and_writes_nothing_that_stays(
    walled: House, sandbox: dict[str, Any]
) -> None:
    """Podman lets it make user namespaces of its own, from which it sees and reaches no more than before."""
    other = subprocess.Popen(["sleep", "1000"])
    came_to = await got(walled, do="meddle", pid=other.pid)
    lives = other.poll() is None
    other.kill()
    other.wait()
    if sandbox["wall"] == "podman":
        came_to = [each for each in came_to if not each.endswith("namespace")]
    assert (came_to, lives) == ([], True)
    assert await got(walled, do="write") == []


@pytest.mark.parametrize("do", ["fork_without_end", "take_memory", "take_nameless_memory", "take_time"])
async def test_one_that_uses_too_much_is_ended_and_the_others_go_on(walled: House, do: str) -> None:
    """By the kernel in a container, where of processes and CPU it gets no more than it may until its time is
    up; in bubblewrap by the first process there."""
    bad, good = await walled.rollouts({"do": do}, {"do": "call"})
    assert good.status is RolloutStatus.SUCCEEDED
    assert bad.status is RolloutStatus.FAILED
    assert alive(bad.id) == []


async def test_what_was_too_much_is_said(walled: House, sandbox: dict[str, Any]) -> None:
    told = error(await walled.rollout({"do": "take_memory"}))
    kernel = "code 137"
    assert (kernel if sandbox["wall"] == "podman" else "bytes of memory; 209715200 are allowed") in told


async def test_it_has_as_much_room_to_write_as_the_recipe_says(walled: House) -> None:
    assert 8 <= await got(walled, do="fill_disk") <= 3 * 8


async def test_what_it_leaves_behind_ends_with_it(walled: House) -> None:
    rollout = await walled.rollout({"do": "outlive"})
    assert rollout.status is RolloutStatus.SUCCEEDED
    assert alive(rollout.id) == []


async def test_one_whose_time_is_up_may_clean_up_and_is_gone(
    ray_cluster: None, tmp_path: Path, sandbox: dict[str, Any]
) -> None:
    house = next(houses := house_of(tmp_path, timeout=8.0, **agent_of(sandbox)))
    for rollout in await house.rollouts({"do": "clean_up"}, {"do": "hang"}):
        assert rollout.attempts[0].status is AttemptStatus.TIMED_OUT
        assert alive(rollout.id) == []
        events = [span.attributes for span in rollout.spans if span.kind is SpanKind.EVENT]
        said = [event[semconv.STDOUT] for event in events if semconv.STDOUT in event]
        assert said == (["cleaned up\n"] if rollout.request.task.data["do"] == "clean_up" else [])
    assert list(houses) == []


async def test_a_runner_that_is_killed_leaves_nothing_within_walls(
    ray_cluster: None, tmp_path: Path, sandbox: dict[str, Any]
) -> None:
    house = next(houses := house_of(tmp_path, timeout=100.0, **agent_of(sandbox)))
    batch = await house.enqueue({"do": "hang"})
    await until(lambda: len(alive(f"{batch}/0")) > 1)
    await asyncio.sleep(1)
    os.kill(await house.runner.__ray_call__.remote(lambda _: os.getpid()), signal.SIGKILL)
    await until(lambda: not alive(f"{batch}/0"))
    houses.close()
    ray.kill(house.store)


def test_where_no_wall_can_be_had_the_cure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And an agent that asks for one is not run without."""
    (tmp_path / "docker").write_text("#!/bin/sh\necho Cannot connect to the daemon >&2; exit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for section, told in (
        ({}, r"'auto': bubblewrap is not installed: apt-get install bubblewrap"),
        (
            {"image": "x"},
            "docker does not answer .Cannot connect.*podman is not installed; bubblewrap is not",
        ),
        ({"wall": "podman", "image": "x"}, "'podman': podman is not installed"),
        ({"wall": "docker"}, "agent.sandbox.image: None: name the image for docker"),
    ):
        with pytest.raises(RecipeError, match=told):
            wall.wall(SandboxSection(**section))


def test_docker_and_podman_are_told_the_same() -> None:
    """All that walls are made of is in it; so what is tried with the one holds of the other."""
    section = {"image": "x", "mounts": {"/given": "/here"}, **LIMITS}
    agent = AgentSection(isolation="command", command=COMMAND, folder=str(HERE), sandbox=section)
    within = wall.Within(agent, Path("/relay"), {"gateway.sock": 8001}, ("OPENAI_API_KEY",))
    docker, podman = (each.command(within) for each in wall._CONTAINERS)
    assert (docker[0], podman[0], docker[1:]) == ("docker", "podman", podman[1:])
    told = " ".join(docker)
    for flags in (
        *("run --rm --interactive", "--network none", "--read-only", "--cap-drop ALL", "--user 65534:65534"),
        *("--security-opt no-new-privileges", "--pids-limit 21", "--memory 200m --memory-swap 200m"),
        *("--cpus 0.5", "--tmpfs /work:rw,exec,size=8m,mode=1777", "--env OPENAI_API_KEY"),
        f"--mount type=bind,src={HERE},dst=/agent,readonly",
        "--mount type=bind,src=/here,dst=/given,readonly",
    ):
        assert f" {flags} " in f"{told} "


@pytest.mark.skipif(not builds_walls(), reason=NOT_HERE)
def test_walls_in_which_no_program_starts_are_told(tmp_path: Path) -> None:
    agent = AgentSection(
        isolation="command", command=COMMAND, sandbox={"image": str(tmp_path), "wall": "bubblewrap"}
    )
    with pytest.raises(RecipeError, match="bubblewrap cannot start python3 in it"):
        wall.try_out(agent)
