"""What the headers of a folder's safetensors files tell of its weights; none is read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path


def shapes(folder: Path) -> Iterator[tuple[str, Sequence[int]]]:
    """Every tensor by its name."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        yield from ((name, each["shape"]) for name, each in header.items() if name != "__metadata__")
