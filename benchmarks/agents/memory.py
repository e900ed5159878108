"""What processes hold of the memory."""

from __future__ import annotations

from pathlib import Path


def pss(pid: int) -> int:
    """Bytes: the proportional set size; of a process that is gone, 0."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
