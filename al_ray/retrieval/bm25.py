"""BM25 over one shard, by ``bm25s``: each word's scores are computed when the index is built.

A shard alone knows only its own word frequencies. ``rescale`` puts those of the whole index in their
place, so that scores of different shards can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import bm25s
import numpy as np

from al_ray.retrieval.ranking import DEPTH, Ranking, best

_DATA: Final = "data.csc.index.npy"
_COMPILED_FROM: Final = 20_000
"""Passages. For fewer, numba's compiler would cost more than it saves."""


class Bm25:
    """Lucene's variant with k1 = 0.9 and b = 0.4, which Anserini's MS MARCO baselines use for passages."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self._passages: int = index.scores["num_docs"]
        index.unique_token_ids_set = range(len(index.scores["indptr"]) - 1)  # any word is a number
        index.backend = "numba" if self._passages >= _COMPILED_FROM else "numpy"

    @classmethod
    def build(cls, documents: Sequence[Sequence[int]], words: int) -> Bm25:
        """``documents`` are passages as the numbers of their words, which are below ``words``."""
        index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
        vocabulary = {number: number for number in range(words)}
        index.index((list(documents), vocabulary), create_empty_token=False, show_progress=False)
        return cls(index)

    @classmethod
    def load(cls, folder: Path) -> Bm25:
        """Memory-mapped."""
        index = bm25s.BM25.load(folder, mmap=True)
        # As plain arrays over the mapped memory, which compiled code takes.
        arrays = {name: np.asarray(index.scores[name]) for name in ("data", "indices", "indptr")}
        index.scores = {**index.scores, **arrays}
        return cls(index)

    def save(self, folder: Path) -> None:
        self._index.vocab_dict = {}  # words are numbers here: the whole index has one vocabulary
        self._index.save(folder)

    def __len__(self) -> int:
        return self._passages

    def frequencies(self) -> np.ndarray:
        """In how many passages each word is."""
        return np.diff(self._index.scores["indptr"])

    def search(self, queries: Sequence[Sequence[int]], k: int) -> list[Ranking]:
        """For each query, given as words, the ``k`` best passages that have any of them."""
        words = len(self.frequencies())
        known = [[word for word in query if word < words] for query in queries]
        asked = [query for query in known if query]
        if not asked or not self._passages:
            return [[] for _ in queries]
        found = self._index.retrieve(
            asked,
            k=min(max(k, DEPTH), self._passages),
            backend_selection=self._index.backend,
            show_progress=False,
            n_threads=1 if self._index.backend == "numba" else 0,
        )
        rankings = iter(
            best([(n, s) for n, s in zip(numbers, scores, strict=True) if s > 0], k)
            for numbers, scores in zip(found.documents.tolist(), found.scores.tolist(), strict=True)
        )
        return [next(rankings) if query else [] for query in known]


def rescale(folder: Path, frequencies: np.ndarray, passages: int) -> None:
    """In the saved index, weigh each word as an index over all ``passages`` would, in ``frequencies`` of
    which it is. (What stays the shard's own is the average length of a passage.)"""
    data = np.load(folder / _DATA, mmap_mode="r+")
    index = Bm25.load(folder)
    own = index.frequencies()
    ratios = _weights(frequencies[: len(own)], passages) / _weights(own, len(index))
    data *= np.repeat(ratios.astype(data.dtype), own)
    data.flush()


def _weights(frequencies: np.ndarray, passages: int) -> np.ndarray:
    """Lucene's inverse document frequency."""
    return np.log1p((passages - frequencies + 0.5) / (frequencies + 0.5))
