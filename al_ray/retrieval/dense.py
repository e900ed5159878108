"""The dense index of a shard: FAISS over unit vectors, by inner product; exact where that is cheap."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np

from al_ray.retrieval.ranking import DEPTH, Ranking, best

MAX_EXACT: Final = 50_000
"""Passages up to which a query is compared with each of them; beyond, with those that HNSW leads to."""
_NEIGHBOURS: Final = 32
_CONSTRUCTION: Final = 40
"""These two are Agent Lightning's (its RAG example: n32, e40)."""
_SEARCH: Final = 128


def build(vectors: np.ndarray) -> Any:
    """A FAISS index; a vector's number is its position."""
    count, width = vectors.shape
    index: Any
    if count <= MAX_EXACT:
        index = faiss.IndexFlatIP(width)
    else:
        index = faiss.IndexHNSWFlat(width, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _CONSTRUCTION
        index.hnsw.efSearch = _SEARCH
    index.add(np.ascontiguousarray(vectors, np.float32))
    return index


def save(index: Any, path: Path) -> None:
    faiss.write_index(index, str(path))


def load(path: Path) -> Any:
    """Mapped: pages come into memory as they are searched."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def search(index: Any, queries: np.ndarray, k: int) -> list[Ranking]:
    """For each query the ``k`` passages that are nearest."""
    depth = min(max(k, DEPTH), index.ntotal)
    scores, numbers = index.search(np.ascontiguousarray(queries, np.float32), depth)
    return [
        best([(n, s) for n, s in zip(row, of_row, strict=True) if n >= 0], k)
        for row, of_row in zip(numbers.tolist(), scores.tolist(), strict=True)
    ]
