"""Building an index: shard by shard, so that memory is bounded by a shard, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from al_ray.errors import DataError, Problem
from al_ray.machines.turns import turn
from al_ray.machines.whole import whole_folder
from al_ray.retrieval import dense, manifest, passages
from al_ray.retrieval.bm25 import Bm25, rescale
from al_ray.retrieval.encoder import Encoder
from al_ray.retrieval.manifest import Settings, Source
from al_ray.retrieval.passages import Passage
from al_ray.retrieval.vocabulary import Vocabulary

Progress = Callable[[str, int, int], None]
"""Told what is done, how far, of how much."""

BM25: Final = "bm25"
DENSE: Final = "dense.faiss"
VOCABULARY: Final = "vocabulary.npy"
_ENCODED_AT_ONCE: Final = 512
_HOURS: Final = 24
"""In which the vectors of millions of passages are made."""


def shard_folder(index: Path, number: int) -> Path:
    return index / f"shard-{number:04d}"


def build(corpus: Path, folder: Path, settings: Settings, progress: Progress) -> None:
    """Make the index at ``folder``, unless it is there. Raises ``DataError``."""
    if not corpus.is_file():
        raise DataError(Problem("corpus", str(corpus), "no such file"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with turn("index", folder, lambda said: progress(said, 0, 1), hours=_HOURS):
        if _is_there(corpus, folder, settings):
            return
        if folder.exists() and not manifest.is_index(folder):
            raise DataError(Problem("index", str(folder), "something else is there; name another folder"))
        with whole_folder(folder) as made:
            _build(corpus, made, settings, progress)


def _is_there(corpus: Path, folder: Path, settings: Settings) -> bool:
    try:
        manifest.require_fresh(folder, corpus, settings)
    except DataError:
        return False
    return True


def _build(corpus: Path, folder: Path, settings: Settings, progress: Progress) -> None:
    progress("reading the corpus", 0, 1)
    touched = manifest.stats([corpus])  # before it is read: what is added meanwhile is not in the index
    sha256, lines = passages.survey(corpus)
    encoded_by = manifest.encoder_of(settings)
    encoder = Encoder(settings.encoder) if settings.encoder is not None else None
    vocabulary, done, shards = Vocabulary(), 0, 0
    for shard in _shards(corpus, settings.shard_passages):
        place = shard_folder(folder, shards)
        place.mkdir()
        passages.write(place, shard)
        if settings.bm25:
            progress("words", done, lines)
            documents = [vocabulary.learn(passage.whole) for passage in shard]
            Bm25.build(documents, len(vocabulary)).save(place / BM25)
        if encoder is not None:
            vectors = _encoded(encoder, shard, partial(_tell_of_vectors, progress, done, lines))
            dense.save(dense.build(vectors), place / DENSE)
        done += len(shard)
        shards += 1
        progress("passages", done, lines)
    if not done:
        raise DataError(Problem("corpus", str(corpus), "it holds no passage"))
    if settings.bm25:
        vocabulary.save(folder / VOCABULARY)
        _weigh_words([shard_folder(folder, number) / BM25 for number in range(shards)], len(vocabulary), done)
    source = Source(touched, sha256)
    manifest.write(folder, source, encoded_by, settings, passages=done, shards=shards)


def _shards(corpus: Path, size: int) -> Iterator[Sequence[Passage]]:
    rest = passages.read(corpus)
    while shard := list(islice(rest, size)):
        yield shard


def _tell_of_vectors(progress: Progress, before: int, lines: int, encoded: int) -> None:
    progress("vectors", before + encoded, lines)


def _encoded(encoder: Encoder, shard: Sequence[Passage], tell: Callable[[int], None]) -> np.ndarray:
    parts = []
    for begin in range(0, len(shard), _ENCODED_AT_ONCE):
        tell(begin)
        parts.append(encoder.passages([p.whole for p in shard[begin : begin + _ENCODED_AT_ONCE]]))
    return np.concatenate(parts)


def _weigh_words(folders: Sequence[Path], words: int, passages: int) -> None:
    """Each shard has weighed words by its own frequencies; those of the whole index count."""
    frequencies = np.zeros(words, np.int64)
    for folder in folders:
        own = Bm25.load(folder).frequencies()
        frequencies[: len(own)] += own
    for folder in folders:
        rescale(folder, frequencies, passages)
