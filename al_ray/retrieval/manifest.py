"""The manifest of an index: what it was made of and how, and whether that is still so."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from al_ray.errors import DataError, Problem
from al_ray.machines.home import home
from al_ray.retrieval import passages

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
class Manifest:
    """What an index is made of."""

    layout: int
    corpus: str
    size: int
    """Of the corpus, in bytes."""
    modified_ns: int
    sha256: str
    settings: Settings
    passages: int
    shards: int


def default_folder(corpus: Path, settings: Settings) -> Path:
    """A place for the index of this corpus with these settings, and for no other."""
    key = json.dumps([str(corpus.resolve()), asdict(settings)])
    return home() / "indexes" / hashlib.sha256(key.encode()).hexdigest()[:16]


def write(folder: Path, corpus: Path, settings: Settings, *, sha256: str, passages: int, shards: int) -> None:
    stat = corpus.stat()
    made = Manifest(_LAYOUT, str(corpus), stat.st_size, stat.st_mtime_ns, sha256, settings, passages, shards)
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
    return Manifest(**{**found, "settings": Settings(**found["settings"])})


def require_fresh(folder: Path, corpus: Path, settings: Settings) -> Manifest:
    """The manifest. Raises ``DataError`` where the index is missing, was made otherwise, or of a corpus
    that has changed since."""
    found = read(folder)
    if found.settings != settings:
        cure = f"the index was made with {found.settings}; choose another folder, or delete it and {CURE}"
        raise DataError(Problem(f"index {folder}", settings, cure))
    if not corpus.is_file():
        raise DataError(Problem("corpus", str(corpus), "no such file"))
    stat = corpus.stat()
    # Only a corpus that was touched is read: many have gigabytes.
    untouched = (stat.st_size, stat.st_mtime_ns) == (found.size, found.modified_ns)
    if not untouched and passages.survey(corpus)[0] != found.sha256:
        cure = f"the corpus is not the one that the index at {folder} was made of; {CURE}"
        raise DataError(Problem("corpus", str(corpus), cure))
    return found
