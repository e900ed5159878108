"""The manifest of an index: what it was made of and how, and whether that is still so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from al_ray.errors import DataError, Problem
from al_ray.machines.home import home
from al_ray.retrieval import encoder, passages

_FILE: Final = "manifest.json"
_LAYOUT: Final = 2
"""Of the files of an index, and of what counts as a word of its passages."""
CURE: Final = "make it with `al-ray index RECIPE`"


@dataclass(frozen=True, slots=True)
class Settings:
    """How an index is made."""

    bm25: bool
    encoder: str | None
    """The model of the dense index. None: there is no dense index."""
    shard_passages: int
    """Passages of one shard, at most."""


@dataclass(frozen=True, slots=True)
class Source:
    """Files that an index is made of, as they were before they were read for it."""

    stats: Mapping[str, Sequence[int]]
    """What ``stats`` tells of them."""
    sha256: str

    def is_still(self, files: Iterable[Path], sha256: Callable[[], str]) -> bool:
        """Files that were not touched are not read: many have gigabytes."""
        return stats(files) == self.stats or sha256() == self.sha256


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index is made of."""

    layout: int
    corpus: Source
    encoder: Source | None
    settings: Settings
    passages: int
    shards: int


def stats(files: Iterable[Path]) -> Mapping[str, Sequence[int]]:
    """Size in bytes and time of change in nanoseconds of each, by its path."""
    found = [(file, file.stat()) for file in files]
    return {str(file): [stat.st_size, stat.st_mtime_ns] for file, stat in found}


def default_folder(corpus: Path, settings: Settings) -> Path:
    """A place for the index of this corpus with these settings, and for no other."""
    key = json.dumps([str(corpus.resolve()), asdict(settings)])
    return home() / "indexes" / hashlib.sha256(key.encode()).hexdigest()[:16]


def encoder_of(settings: Settings) -> Source | None:
    """As it is now. Raises ``DataError`` where it is not there."""
    name = settings.encoder
    return Source(stats(encoder.files(name)), encoder.sha256(name)) if name is not None else None


def write(
    folder: Path, corpus: Source, encoder: Source | None, settings: Settings, *, passages: int, shards: int
) -> None:
    made = Manifest(_LAYOUT, corpus, encoder, settings, passages, shards)
    (folder / _FILE).write_text(json.dumps(asdict(made), indent=2), encoding="utf-8")


def is_index(folder: Path) -> bool:
    return (folder / _FILE).is_file()


def read(folder: Path) -> Manifest:
    """Raises ``DataError`` where there is no index, or one of another layout."""
    if not is_index(folder):
        raise DataError(Problem("index", str(folder), f"there is no index; {CURE}"))
    found = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    if found["layout"] != _LAYOUT:
        cure = f"this index was made by another version of al_ray; delete it and {CURE}"
        raise DataError(Problem("index", str(folder), cure))
    encoder = Source(**found["encoder"]) if found["encoder"] is not None else None
    of = {"corpus": Source(**found["corpus"]), "encoder": encoder, "settings": Settings(**found["settings"])}
    return Manifest(**{**found, **of})


def require_fresh(folder: Path, corpus: Path, settings: Settings) -> Manifest:
    """The manifest. Raises ``DataError`` where the index is missing, was made otherwise, or of a corpus or by
    an encoder that has changed since."""
    found = read(folder)
    if found.settings != settings:
        cure = f"the index was made with {found.settings}; choose another folder, or delete it and {CURE}"
        raise DataError(Problem(f"index {folder}", settings, cure))
    if not corpus.is_file():
        raise DataError(Problem("corpus", str(corpus), "no such file"))
    if not found.corpus.is_still([corpus], lambda: passages.survey(corpus)[0]):
        cure = f"the corpus is not the one that the index at {folder} was made of; {CURE}"
        raise DataError(Problem("corpus", str(corpus), cure))
    name, encoded_by = settings.encoder, found.encoder
    if name and encoded_by and not encoded_by.is_still(encoder.files(name), partial(encoder.sha256, name)):
        cure = f"it is not the one by which the vectors of the index at {folder} were made; {CURE}"
        raise DataError(Problem("encoder", name, cure))
    return found
