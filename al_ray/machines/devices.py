"""What this machine computes with, as the kernel and NVIDIA's own tool show it: torch is not asked."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SECONDS: Final = 10.0
_MIB: Final = 2**20
_KIB: Final = 2**10


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU."""

    capability: float
    """CUDA's compute capability: 8.0 is Ampere."""
    memory: int
    """Bytes."""


def nvidia_gpus() -> int:
    """How many NVIDIA GPUs this process can see as devices."""
    return sum(device.name.removeprefix("nvidia").isdecimal() for device in Path("/dev").glob("nvidia*"))


def gpus() -> list[Gpu]:
    """Those of this machine; none where there are none, or nothing tells of them."""
    if not nvidia_gpus():
        return []
    command = ["nvidia-smi", "--query-gpu=compute_cap,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
        pairs = [line.split(",") for line in told.splitlines() if line.strip()]
        return [Gpu(float(capability), int(mebibytes) * _MIB) for capability, mebibytes in pairs]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def cpu_flags() -> frozenset[str]:
    """What its processors can do, by the kernel's names."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def memory() -> int:
    """Bytes that processes here may hold together: the machine's, or the container's share."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    whole = next(int(line.split()[1]) * _KIB for line in lines if line.startswith("MemTotal:"))
    try:
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # "max" is no number
        return whole
