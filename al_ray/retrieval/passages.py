"""Passages: read from a corpus, and kept so that any one of them can be looked up in a mapped file."""

from __future__ import annotations

import csv
import hashlib
import mmap
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import orjson
from typing_extensions import TypedDict

from al_ray.data import files
from al_ray.errors import DataError, Problem

_TEXTS: Final = "passages.bin"
_OFFSETS: Final = "offsets.npy"
_BLOCK: Final = 2**24


@dataclass(frozen=True, slots=True)
class Passage:
    """What is found."""

    id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        """What is searched."""
        return f"{self.title} {self.text}"


class _Row(TypedDict):
    pid: str
    title: str
    text: str


def read(corpus: Path) -> Iterator[Passage]:
    """Those of a ``.tsv`` with a first line, ``id``, ``text`` and ``title`` (DPR's Wikipedia of 21 million),
    or of any file of rows (``.jsonl``) with the texts ``pid``, ``title`` and ``text``.

    Raises ``DataError`` at the first row of another shape.
    """
    if corpus.suffix == ".tsv":
        yield from _tsv(corpus)
        return
    for row in files.read(corpus):
        if isinstance(row, DataError):
            raise row
        found = files.checked(row, _Row)
        yield Passage(found["pid"], found["title"], found["text"])


def survey(corpus: Path) -> tuple[str, int]:
    """The SHA-256 of the corpus, and how many lines it has."""
    digest, lines = hashlib.sha256(), 0
    with corpus.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            lines += block.count(b"\n")
    return digest.hexdigest(), lines


def write(folder: Path, passages: Sequence[Passage]) -> None:
    offsets = np.zeros(len(passages) + 1, np.int64)
    with (folder / _TEXTS).open("wb") as file:
        for position, passage in enumerate(passages):
            offsets[position + 1] = offsets[position] + file.write(
                orjson.dumps([passage.id, passage.title, passage.text])
            )
    np.save(folder / _OFFSETS, offsets)


class Passages:
    """Those that ``write`` has written; nothing is held in memory but what was looked at."""

    def __init__(self, folder: Path) -> None:
        self._offsets = np.load(folder / _OFFSETS, mmap_mode="r")
        with (folder / _TEXTS).open("rb") as file:
            self._texts = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, position: int) -> Passage:
        begin, end = self._offsets[position], self._offsets[position + 1]
        return Passage(*orjson.loads(self._texts[begin:end]))


def _tsv(corpus: Path) -> Iterator[Passage]:
    csv.field_size_limit(sys.maxsize)
    with corpus.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file, delimiter="\t")
        next(lines, None)
        for number, line in enumerate(lines, start=2):
            if len(line) != 3:
                cure = "a line has an id, a text and a title, with tabs between them"
                raise DataError(Problem(f"{corpus}, line {number}", "\t".join(line)[:80], cure))
            yield Passage(line[0], title=line[2], text=line[1])
