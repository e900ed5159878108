"""The accelerators of this machine, as the kernel shows them: neither torch nor a driver's tool is asked."""

from __future__ import annotations

from pathlib import Path


def nvidia_gpus() -> int:
    """How many NVIDIA GPUs this process can see as devices."""
    return sum(device.name.removeprefix("nvidia").isdecimal() for device in Path("/dev").glob("nvidia*"))
