"""A corpus, and indexes of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from al_ray.retrieval.build import build
from al_ray.retrieval.manifest import Settings

WORDS = [f"{a}{b}" for a in ("ba", "ko", "lu", "mi", "ne", "ra") for b in ("da", "fe", "go", "ti", "vu")]


def write_corpus(path: Path, count: int) -> list[str]:
    """Passages of some common words and one word of their own; returns the texts."""
    rng = random.Random(count)
    texts = [" ".join([*rng.choices(WORDS, k=rng.randint(3, 20)), f"own{n}"]) for n in range(count)]
    rows = [{"pid": f"p{n}", "title": f"Title {n}", "text": text} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return texts


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """120 passages."""
    write_corpus(tmp_path / "corpus.jsonl", 120)
    return tmp_path / "corpus.jsonl"


@pytest.fixture
def built(tmp_path: Path, corpus: Path) -> Callable[..., Path]:
    """Builds an index of the corpus, in shards of so many passages."""

    def built(shard_passages: int = 50, **settings: object) -> Path:
        wanted = Settings(**{"bm25": True, "encoder": None, "shard_passages": shard_passages, **settings})  # type: ignore[arg-type]
        folder = tmp_path / f"index-{shard_passages}-{wanted.bm25}-{wanted.encoder}"
        build(corpus, folder, wanted, lambda what, done, total: None)
        return folder

    return built
