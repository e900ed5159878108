"""BM25 over numbered words, against the formula worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.retrieval import bm25
from al_ray.retrieval.bm25 import Bm25, rescale
from al_ray.retrieval.ranking import DEPTH

DOCUMENTS = st.lists(st.lists(st.integers(0, 7), max_size=6), min_size=1, max_size=8).filter(any)


def expected(documents: Sequence[Sequence[int]], query: Sequence[int]) -> dict[int, float]:
    """Lucene's BM25: idf = ln(1 + (N - df + 0.5) / (df + 0.5)), tf / (tf + k1 (1 - b + b length / mean))."""
    mean = sum(map(len, documents)) / len(documents)
    scores = {}
    for number, document in enumerate(documents):
        counts, score = Counter(document), 0.0
        for word in query:
            df = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            norm = 0.9 * (1 - 0.4 + 0.4 * len(document) / mean)
            score += idf * counts[word] / (counts[word] + norm) if counts[word] else 0.0
        if score > 0:
            scores[number] = score
    return scores


@settings(max_examples=40)
@given(DOCUMENTS, st.lists(st.integers(0, 7), min_size=1, max_size=4, unique=True))
def test_scores_are_those_of_the_formula(documents: list[list[int]], query: list[int]) -> None:
    (ranking,) = Bm25.build(documents, 8).search([query], len(documents))
    wanted = expected(documents, query)
    assert {n: pytest.approx(s, rel=1e-4) for n, s in ranking} == wanted
    assert [s for _, s in ranking] == sorted((s for _, s in ranking), reverse=True)


def test_compiled_search_finds_what_plain_search_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Large shards are searched by compiled code over the mapped file."""
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 50, 12).tolist() for _ in range(300)]
    queries = [[1, 7], [], [3], [49, 2, 8]]
    built = Bm25.build(documents, 50)
    plain = built.search(queries, 5)
    built.save(tmp_path)
    monkeypatch.setattr(bm25, "_COMPILED_FROM", 1)
    compiled = Bm25.load(tmp_path).search(queries, 5)
    assert compiled[1] == []
    for one, other in zip(plain, compiled, strict=True):
        assert [s for _, s in one] == pytest.approx([s for _, s in other])


@pytest.mark.parametrize("compiled", [False, True])
def test_what_a_query_finds_first_does_not_depend_on_how_many_are_wanted(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    """Of 300 passages, most are as good as many others."""
    monkeypatch.setattr(bm25, "_COMPILED_FROM", 1 if compiled else 1000)
    index = Bm25.build([[0, *([1] if number % 9 == 0 else [2])] for number in range(300)], 3)
    (deep,) = index.search([[0, 1]], DEPTH)
    assert len(deep) == DEPTH and deep[0][1] > deep[-1][1]
    for k in (1, 3, 10, 50):
        assert index.search([[0, 1]], k) == [deep[:k]]


def test_a_query_of_unknown_words_finds_nothing_and_a_short_list_is_short() -> None:
    index = Bm25.build([[0, 1], [1]], 2)
    assert index.search([[], [5], [0]], 9)[:2] == [[], []]
    assert len(index.search([[0]], 9)[0]) == 1


def test_a_shard_weighs_words_as_the_whole_index_would(tmp_path: Path) -> None:
    """Two halves of equal mean length, each given the frequencies of both, score as the whole does."""
    rng = np.random.default_rng(1)
    documents = [rng.integers(0, 20, 6).tolist() for _ in range(40)]
    whole = Bm25.build(documents, 20)
    halves = documents[:20], documents[20:]
    for number, half in enumerate(halves):
        Bm25.build(half, 20).save(tmp_path / str(number))
        rescale(tmp_path / str(number), whole.frequencies(), 40)
    for query in ([3], [1, 2], [19, 4, 7]):
        found = [
            (number * 20 + n, s)
            for number in range(2)
            for n, s in Bm25.load(tmp_path / str(number)).search([query], 20)[0]
        ]
        assert dict(found) == {n: pytest.approx(s, rel=1e-4) for n, s in whole.search([query], 40)[0]}
