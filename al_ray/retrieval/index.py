"""A built index: its shards, each searched by itself, and what makes their answers one.

``Searcher`` prepares questions and puts answers together, ``Shard`` answers; whether shards are in this
process (``Index``) or elsewhere does not matter to either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from al_ray.retrieval import dense, manifest
from al_ray.retrieval.bm25 import Bm25
from al_ray.retrieval.build import BM25, DENSE, VOCABULARY, shard_folder
from al_ray.retrieval.encoder import Encoder
from al_ray.retrieval.passages import Passage, Passages
from al_ray.retrieval.ranking import DEPTH, Hit, Ranking, fused, merged
from al_ray.retrieval.vocabulary import SavedVocabulary

Method = Literal["bm25", "dense", "hybrid"]


@dataclass(frozen=True, slots=True)
class PreparedQueries:
    """Queries as shards take them, for each method that the index has."""

    words: Sequence[Sequence[int]] | None
    vectors: np.ndarray | None
    depth: int
    """How many passages each method is to find; where two are fused, at least ``DEPTH``."""


Found = Sequence[Sequence[Ranking]]
"""By method, then by query."""


class Shard:
    """One shard; passages are numbered through the whole index."""

    def __init__(self, index: Path, number: int) -> None:
        folder = shard_folder(index, number)
        self._first = number * manifest.read(index).settings.shard_passages
        self._bm25 = Bm25.load(folder / BM25) if (folder / BM25).is_dir() else None
        self._dense: Any = dense.load(folder / DENSE) if (folder / DENSE).is_file() else None

    def search(self, asked: PreparedQueries) -> Found:
        found = []
        if self._bm25 is not None and asked.words is not None:
            found.append(self._bm25.search(asked.words, asked.depth))
        if self._dense is not None and asked.vectors is not None:
            found.append(dense.search(self._dense, asked.vectors, asked.depth))
        return [[self._numbered(ranking) for ranking in rankings] for rankings in found]

    def _numbered(self, ranking: Ranking) -> Ranking:
        return [(self._first + position, score) for position, score in ranking]


class Searcher:
    """What of an index is needed once: vocabulary, encoder, and the passages to show."""

    def __init__(self, index: Path) -> None:
        made = manifest.read(index)
        self.shards = made.shards
        self._per_shard = made.settings.shard_passages
        self._words = SavedVocabulary(index / VOCABULARY) if made.settings.bm25 else None
        self._encoder = Encoder(made.settings.encoder) if made.settings.encoder is not None else None
        self._passages = [Passages(shard_folder(index, number)) for number in range(made.shards)]

    def ask(self, queries: Sequence[str], k: int) -> PreparedQueries:
        both = self._words is not None and self._encoder is not None
        return PreparedQueries(
            words=[self._words.look_up(query) for query in queries] if self._words else None,
            vectors=self._encoder.queries(queries) if self._encoder else None,
            depth=max(k, DEPTH) if both else k,
        )

    def rank(self, asked: PreparedQueries, found: Sequence[Found], k: int) -> list[Ranking]:
        """The ``k`` best for each query, of what each shard has found."""
        by_method = [
            [merged(of_shards, asked.depth) for of_shards in zip(*rankings, strict=True)]
            for rankings in zip(*found, strict=True)
        ]
        if len(by_method) == 1:
            return [ranking[:k] for ranking in by_method[0]]
        return [fused(rankings, k) for rankings in zip(*by_method, strict=True)]

    def passage(self, number: int) -> Passage:
        shard, position = divmod(number, self._per_shard)
        return self._passages[shard][position]


class Index:
    """A whole index in this process."""

    def __init__(self, folder: Path) -> None:
        self._searcher = Searcher(folder)
        self._shards = [Shard(folder, number) for number in range(self._searcher.shards)]

    def rank(self, queries: Sequence[str], k: int) -> list[Sequence[Hit]]:
        """For each query, the numbers and scores of the ``k`` best passages."""
        asked = self._searcher.ask(queries, k)
        return self._searcher.rank(asked, [shard.search(asked) for shard in self._shards], k)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """For each query, the ``k`` best passages."""
        return [[self._searcher.passage(n) for n, _ in ranking] for ranking in self.rank(queries, k)]
