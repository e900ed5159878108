"""Rankings: what was found in several shards, or in several ways, as one."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

Hit = tuple[int, float]
"""The number of a passage and its score, of which a greater one is better."""
Ranking = Sequence[Hit]
"""The best first. Which of equal ones a search finds, if not all, is up to bm25s and FAISS."""

DEPTH: Final = 100
"""Hits that a search looks for, also where fewer are wanted. Among equal ones, bm25s and FAISS choose by how
many they are to find; so to this depth, what a query finds first is the same, whatever is asked beside it."""
_RRF_CONSTANT: Final = 60
"""Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet" (SIGIR 2009)."""


def best(hits: Sequence[Hit], k: int) -> Ranking:
    """Of these, the best; of equal ones, the lower number first."""
    return heapq.nsmallest(k, hits, key=lambda hit: (-hit[1], hit[0]))


def merged(rankings: Sequence[Ranking], k: int) -> Ranking:
    """Of several shards: scores are comparable, passages are not shared."""
    return best([hit for ranking in rankings for hit in ranking], k)


def fused(rankings: Sequence[Ranking], k: int) -> Ranking:
    """Of several ways to search the same passages, whose scores cannot be compared: reciprocal rank fusion,
    the sum over rankings of 1 / (60 + rank)."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (number, _) in enumerate(ranking, start=1):
            scores[number] = scores.get(number, 0.0) + 1 / (_RRF_CONSTANT + rank)
    return best(list(scores.items()), k)
