"""A recipe is a job: submitted to a running cluster as it is typed in the README, it streams its log,
ends with a status, and when it is stopped nothing of it stays."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from al_ray.reports import jsonl_sink
from al_ray.run.folder import RunFolder
from tests.support.machines.processes import ROOT, Command, process_name, run, run_here
from tests.support.runs import toy

pytestmark = pytest.mark.slow

RAY = "ray.scripts.scripts"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(opened.getsockname()[1]) for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A working directory: this repository's rooms, the toy agent, and recipes that name it. Of one of them,
    ``said.yaml``, the first line is a command that lies nowhere else and needs no vLLM."""
    folder = tmp_path_factory.mktemp("job") / "work"
    for room in ("al_ray", "actors", "algorithms", "envs"):
        shutil.copytree(
            ROOT / room, folder / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copytree(ROOT / "tests" / "support", folder / "tests" / "support")
    toy.write_code(folder)
    (folder / "recipes").mkdir()
    content = toy.recipe(tiny_model, folder.parent / "out")
    content["stages"] = content["stages"][1:]
    toy.write_recipe(folder / "recipes", content)
    (folder / "recipes" / "toy.yaml").rename(folder / "recipes" / "broken.yaml")
    with (folder / "recipes" / "broken.yaml").open("a") as broken:
        broken.write("enginse: {replicas: 2}\n")
    said = toy.write_recipe(folder / "recipes", content).rename(folder / "recipes" / "said.yaml")
    written = said.read_text()
    assert written.count("-m al_ray train") == 1
    said.write_text(written.replace("-m al_ray train", "-m tests.support.runs.without_vllm train"))
    toy.write_recipe(folder / "recipes", content)
    return folder


OPEN = {"RAY_AUTH_MODE": "disabled"}
"""Left unset, it depends on what other clusters left in this home."""


@dataclass(frozen=True)
class Head:
    """A running cluster and the address that jobs are submitted to."""

    command: Command
    address: str


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[Head]:
    """A cluster of one node with its own ports and folder; its Python is this one.

    Its agent, which runs the jobs, chooses its port itself: where a port that it is told has been taken
    meanwhile, Ray's agent lives on without one, and no job is ever taken."""
    dashboard, client = free_ports(2)
    # Sockets lie below it, and their paths may not be long.
    scratch = Path(tempfile.mkdtemp(prefix="ray-"))
    options = {
        "port": 0,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": 0,
        "num-cpus": 2,
        "object-store-memory": 200_000_000,
        "temp-dir": scratch,
    }
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    arguments = [RAY, "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
    with Command(arguments, folder.parent, PATH=path, PYTHONPATH="", **OPEN) as command:
        command.wait_until(lambda: "--block" in command.output and _answers(dashboard), 120)
        command.wait_until(lambda: _has_agent(scratch), 120, "Ray's agent, which runs the jobs")
        yield Head(command, f"http://127.0.0.1:{dashboard}")
    shutil.rmtree(scratch, ignore_errors=True)


def _has_agent(scratch: Path) -> bool:
    """Whether the node's agent listens: it then writes its port down, or -1 where it could have none."""
    written = [file.read_text() for file in scratch.glob("session_latest/dashboard_agent_listen_port_*")]
    assert "-1" not in written, f"Ray's agent has no port: see dashboard_agent.log in {scratch}"
    return any(written)


def _answers(port: int) -> bool:
    with socket.socket() as knocking:
        return knocking.connect_ex(("127.0.0.1", port)) == 0


def submit(head: Head, folder: Path, *arguments: str) -> tuple[int, str]:
    submitting = [RAY, "job", "submit", "--address", head.address, "--working-dir", "."]
    return run([*submitting, *arguments], folder, **OPEN)


def test_a_recipe_typed_as_a_command_trains_and_streams_its_log(head: Head, folder: Path) -> None:
    """Its first line says what runs it, here a module that is only in what was uploaded. (With vLLM the same
    is done below, by the job that is stopped.)"""
    code, log = submit(head, folder, "recipes/said.yaml")
    assert code == 0 and "succeeded" in log, log
    assert "evaluation  untrained: " in log and "evaluation  after grpo: " in log
    [run_folder] = (folder.parent / "out" / "toy").iterdir()
    steps = [line["step"] for line in jsonl_sink.read(run_folder) if "optim/loss" in line]
    assert steps == [1, 2, 3]
    assert f"checkpoint  {run_folder}/checkpoints/step-000003" in log


def test_a_recipe_named_to_al_ray_runs_the_same(head: Head, folder: Path) -> None:
    """With options after the two dashes; a dry run plans for the cluster that the job is on."""
    code, log = submit(head, folder, "--", "python", "-m", "al_ray", "train", "recipes/toy.yaml", "--dry-run")
    assert code == 0 and "succeeded" in log, log
    assert "placement: cpu, colocated" in log and "engine 0, learner 0" in log


def test_an_output_that_would_go_with_the_job_fails_it_with_the_cure(head: Head, folder: Path) -> None:
    code, log = submit(head, folder, "--", "python", "-m", "al_ray", "train", "recipes/toy.yaml",
                       "--set", "output=outputs")  # fmt: skip
    assert code == 1 and "error: output: 'outputs': lies in Ray's cache" in log, log
    assert "Traceback" not in log


def al_ray_submit(head: Head, folder: Path, *arguments: str) -> tuple[int, str]:
    return run(["al_ray", "submit", "--address", head.address, *arguments], folder, **OPEN)


def test_al_ray_submit_tells_what_goes_up_and_ends_as_the_job_does(head: Head, folder: Path) -> None:
    """Here with a mistake that only the job can see."""
    lost = ["--set", f"model.path={folder.parent / 'lost'}", "--seed", "3"]
    code, log = al_ray_submit(head, folder, "recipes/toy.yaml", *lost)
    assert code == 2, log
    assert re.search(r"upload {6}\d{3} files, \d\.\d MiB packed; the largest: \S+ 0\.\d MiB", log)
    assert f"python -m al_ray train recipes/toy.yaml {' '.join(lost)}" in log
    assert f"results     {folder.parent}/out/toy, on the cluster" in log
    assert "error: recipes/toy.yaml: model.path: " in log and "Traceback" not in log


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["recipes/broken.yaml"], "enginse: {'replicas': 2}: no such key"),
        (["recipes/toy.yaml", "--set", "output=outputs"], "error: output: 'outputs': lies in Ray's cache"),
        (["recipes/toy.yaml", "--working-dir", "tests"], "recipes/toy.yaml is not within it"),
    ],
)
def test_what_is_wrong_here_is_told_before_anything_is_sent(
    folder: Path, arguments: list[str], told: str
) -> None:
    code, log = run_here(["submit", "--address", "http://nobody.invalid:8265", *arguments], folder)
    assert code == 2 and told in log, log


def test_a_broken_recipe_fails_the_job_with_our_message(head: Head, folder: Path) -> None:
    code, log = submit(head, folder, "recipes/broken.yaml")
    assert code == 1 and "failed" in log
    assert "error: recipes/broken.yaml: enginse: {'replicas': 2}: no such key; did you mean 'engines'?" in log
    assert "Traceback" not in log


def test_a_stopped_job_writes_a_checkpoint_and_leaves_nothing_running(head: Head, folder: Path) -> None:
    """Neither its driver nor its actors nor what these have started, vLLM's own processes; until then it
    trained, with the code that was uploaded."""
    endless = ["recipes/toy.yaml", "--run", "endless", "--set", "stages.0.steps=100000"]
    code, log = al_ray_submit(head, folder, *endless, "--no-follow")
    assert code == 0, log
    metrics = folder.parent / "out" / "toy" / "endless"
    head.command.wait_until(lambda: any("reward/mean" in line for line in jsonl_sink.read(metrics)))
    assert {"ray::Learner", "ray::Engine", "ray::Store", "VLLM"} <= ours(head)
    stop = re.search(r"to stop +ray (job stop .*)  \(it has", log)
    assert stop is not None, log
    code, log = run([RAY, *stop[1].split()], folder, **OPEN)
    assert code == 0 and "was stopped" in log, log
    head.command.wait_until(lambda: not ours(head), 30)
    assert RunFolder(metrics).checkpoints()


def ours(head: Head) -> set[str]:
    """The processes of a run on the cluster, by name."""
    names = {process_name(pid) for pid in head.command.alive()}
    known = (
        "ray::Learner",
        "ray::Engine",
        "ray::Store",
        "ray::Gateway",
        "ray::Runner",
        "VLLM",
        "python -m al_ray",
    )
    return {start for start in known if any(name.startswith(start) for name in names)}
