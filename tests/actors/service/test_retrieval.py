"""Retrieval as a service, before any process of it is started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from al_ray.actors.service.retrieval import Retrieval
from al_ray.errors import UserError


@pytest.mark.parametrize(("method", "missing"), [("bm25", "faiss"), ("hybrid", "sentence_transformers")])
def test_packages_that_are_not_installed_are_told_with_the_extra_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, missing: str
) -> None:
    """When an index is made, and before a run."""
    monkeypatch.setitem(sys.modules, missing, None)
    retrieval = Retrieval(None, corpus=str(tmp_path / "corpus.jsonl"), method=method)  # type: ignore[arg-type]
    for asked in (retrieval.check, lambda: retrieval.build(lambda *_: None)):
        with pytest.raises(UserError, match=rf"'{missing}': .*: pip install 'al_ray\[musique\]'"):
            asked()
