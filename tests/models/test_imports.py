"""transformers is imported without what it takes a second for."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from al_ray.models.imports import hidden


def test_what_is_hidden_is_found_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an error."""
    names = "colorsys", "sndhdr"
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ModuleNotFoundError), hidden(*names):
        assert [importlib.util.find_spec(name) for name in names] == [None, None]
        importlib.import_module("colorsys")
    assert all(map(importlib.util.find_spec, names))


def test_what_has_been_imported_stays() -> None:
    before = sys.modules["importlib"]
    with hidden("importlib"):
        assert sys.modules["importlib"] is before
    assert sys.modules["importlib"] is before
