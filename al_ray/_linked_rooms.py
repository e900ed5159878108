"""Finds ``al_ray.{actors,algorithms,envs}`` where their links did not survive unpacking.

In a checkout ``al_ray/actors`` links to ``actors``; in a wheel it is a folder; Python's own finders
take both. An archive unpacked without links (a hosting site's zip, Windows) leaves a text file or
nothing there, and then the room beside ``al_ray`` is imported under the same name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

HOUSE = Path(__file__).resolve().parent
ROOMS = frozenset({"actors", "algorithms", "envs"})


class RoomFinder:
    """A meta-path finder; it stands last, so it is asked only for what nobody else found."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, room = name.rpartition(".")
        if package != "al_ray" or room not in ROOMS or (HOUSE / room).is_dir():
            return None
        folder = HOUSE.parent / room
        return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])


def install() -> None:
    """Adds the finder to this process."""
    if RoomFinder not in sys.meta_path:
        sys.meta_path.append(RoomFinder)
