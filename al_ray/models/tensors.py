"""What the headers of a folder's safetensors files tell of its weights; none is read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from al_ray.errors import Problem, RecipeError
from al_ray.models.config import CUT_OFF, read

TWICE: Final = "consolidated*"
"""Files in which some models have their weights a second time, by the names of another library."""
_INDEX: Final = "model.safetensors.index.json"


def files(folder: Path) -> list[Path]:
    """Those of a model's weights that engines and learners load; none where there are none. Raises
    ``RecipeError`` where the index names one that is not there."""
    if not (index := folder / _INDEX).is_file():
        return sorted(set(folder.glob("*.safetensors")) - set(folder.glob(TWICE)))
    shards = read(index, "model.path").get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise RecipeError(Problem("model.path", str(index), f"names no files of weights: {CUT_OFF}"))
    found = [folder / name for name in sorted(set(shards.values()))]
    for file in found:
        if not file.is_file():
            cure = f"is not there, though {_INDEX} beside it names it: {CUT_OFF}"
            raise RecipeError(Problem("model.path", str(file), cure))
    return found


def shapes(folder: Path) -> Iterator[tuple[str, Sequence[int]]]:
    """Every tensor of a model by its name. Raises ``RecipeError`` where weights are not whole."""
    for file in files(folder):
        yield from shapes_in(file, "model.path").items()


def shapes_in(file: Path, where: str) -> Mapping[str, Sequence[int]]:
    """Every tensor of the file, which stands ``where`` in the recipe. Raises ``RecipeError`` where it is no
    safetensors file, or not whole."""
    try:
        return _shapes(file)
    except OSError as error:
        raise RecipeError(Problem(where, str(file), f"cannot be read: {error.strerror}")) from error
    except (ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise RecipeError(Problem(where, str(file), f"is no whole safetensors file: {CUT_OFF}")) from error


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
