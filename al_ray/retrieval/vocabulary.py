"""Words as numbers: learnt in memory while an index is built, looked up in a mapped file afterwards."""

from __future__ import annotations

import re
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Final
from unicodedata import category, normalize

import numpy as np
from bm25s.stopwords import STOPWORDS_EN

_MARKS: Final = "".join(
    chr(code)
    for code in chain(range(0x300, 0x20000), range(0xE0100, 0xE01F0))  # beyond these, Unicode has none
    if category(chr(code)).startswith("M")
)
_WORD: Final = re.compile(rf"\w[\w\u200c\u200d{_MARKS}]*")
"""As Unicode's UTS #18, annex C, has it. To ``re``, marks and joiners end a word, but whole scripts write
their vowels as marks."""
_STOPWORDS: Final = frozenset(STOPWORDS_EN)


def words(text: str) -> list[str]:
    """The words of a text without case, and without the most common ones of English; in one form (NFKC),
    however the text writes its accents, wide letters and ligatures."""
    # Twice: without case, a letter and its accent may be one letter that they were not before.
    folded = normalize("NFKC", normalize("NFKC", text).casefold())
    return [word for word in _WORD.findall(folded) if word not in _STOPWORDS]


class Vocabulary:
    """Grows with each text that it learns."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def learn(self, text: str) -> list[int]:
        """The numbers of the text's words, new ones for new words."""
        ids = self._ids
        return [ids.setdefault(word, len(ids)) for word in words(text)]

    def look_up(self, text: str) -> list[int]:
        """The numbers of those words of the text that are known."""
        return [self._ids[word] for word in words(text) if word in self._ids]

    def save(self, path: Path) -> None:
        """As hashes with the words' numbers, ascending: 16 bytes a word, where a dictionary takes over 100.

        Of ten million words, the chance that any two share a hash of 64 bits is 3 in a million.
        """
        hashes = np.fromiter(map(_hash, self._ids), np.uint64, len(self._ids))
        order = np.argsort(hashes)
        np.save(path, np.stack([hashes[order], order.astype(np.uint64)]))


class SavedVocabulary:
    """What ``Vocabulary.save`` has written."""

    def __init__(self, path: Path) -> None:
        self._hashes, self._ids = np.load(path, mmap_mode="r")

    def look_up(self, text: str) -> list[int]:
        """The numbers of those words of the text that are known."""
        return [found for word in words(text) if (found := self._find(_hash(word))) is not None]

    def _find(self, wanted: int) -> int | None:
        place = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        found = place < len(self._hashes) and int(self._hashes[place]) == wanted
        return int(self._ids[place]) if found else None


def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
