"""What the headers of a folder's safetensors files tell of its weights; none is read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from al_ray.errors import Problem, RecipeError
from al_ray.models.config import CUT_OFF


def shapes(folder: Path) -> Iterator[tuple[str, Sequence[int]]]:
    """Every tensor by its name. Raises ``RecipeError`` at a file that is none of the kind, or not whole."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            found = _shapes(file)
        except OSError as error:
            raise RecipeError(
                Problem("model.path", str(file), f"cannot be read: {error.strerror}")
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
            cure = f"is no whole safetensors file: {CUT_OFF}"
            raise RecipeError(Problem("model.path", str(file), cure)) from error
        yield from found.items()


def _shapes(file: Path) -> Mapping[str, Sequence[int]]:
    """A file is a length, the header of so many bytes, and the tensors, where that says that they are."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if 8 + length > size:  # what is no header's length may be more than the memory holds
            raise ValueError(f"the header ends after the file, at {8 + length}")
        header = json.loads(stream.read(length))
    tensors = {name: each for name, each in header.items() if name != "__metadata__"}
    end = 8 + length + max((each["data_offsets"][1] for each in tensors.values()), default=0)
    if end > size:
        raise ValueError(f"a tensor ends after the file, at {end}")
    return {name: each["shape"] for name, each in tensors.items()}
