"""What this machine computes with, as the kernel and NVIDIA's own tool show it: torch is not asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_DEVICES: Final = Path("/dev")
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
    """How many NVIDIA GPUs CUDA shows this process: those that ``CUDA_VISIBLE_DEVICES`` leaves."""
    return len(_visible())


def gpus() -> list[Gpu]:
    """What they are; none where there are none, or nothing tells of them."""
    return [gpu for gpu in _visible() if gpu is not None]


def _visible() -> list[Gpu | None]:
    """Each that CUDA shows this process; None: nothing tells of it."""
    devices = sum(each.name.removeprefix("nvidia").isdecimal() for each in _DEVICES.glob("nvidia*"))
    if not devices:
        return []
    cards = _cards()
    there: list[Gpu | None] = [*cards.values()]
    there = there or [None] * devices
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return there
    if names.startswith("MIG-") or (names.startswith("GPU-") and not cards):
        # A part of a GPU, or a UUID where nobody tells them, is taken at its word.
        return [None] * min(devices, len(names.split(",")))
    found = listed(names, [*cards] or [""] * devices)
    by_bus = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if cards and not (by_bus or names.startswith("GPU-")):
        # CUDA's own numbers begin with the GPU that it takes for the fastest: any of them may be meant.
        least = Gpu(min(gpu.capability for gpu in cards.values()), min(gpu.memory for gpu in cards.values()))
        return [least] * len(found)
    return [there[index] for index in found]


def listed(names: str, uuids: Sequence[str]) -> list[int]:
    """Which GPUs ``names`` are, a value of ``CUDA_VISIBLE_DEVICES``, as CUDA reads it: numbers, UUIDs or
    beginnings of them. What stands behind one that names no GPU does not count; a list that names one twice
    shows none."""
    found: list[int] = []
    for name in (each.strip() for each in names.split(",")):
        if name.isdecimal():
            named = [index for index in range(len(uuids)) if index == int(name)]
        else:
            named = [i for i, uuid in enumerate(uuids) if name.startswith("GPU-") and uuid.startswith(name)]
        if len(named) != 1:
            break
        found += named
    return found if len(set(found)) == len(found) else []


@cache
def _cards() -> Mapping[str, Gpu]:
    """All of this machine by their UUIDs, in the order of the bus; none where nothing tells of them."""
    command = ["nvidia-smi", "--query-gpu=uuid,compute_cap,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
        lines = [line.split(",") for line in told.splitlines() if line.strip()]
        return {uuid: Gpu(float(able), int(mebibytes) * _MIB) for uuid, able, mebibytes in lines}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


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
