"""transformers is imported without what it takes a second for."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from al_ray.models.imports import hidden


def test_what_is_hidden_is_found_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an error."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(ModuleNotFoundError), hidden("colorsys"):
        assert importlib.util.find_spec("colorsys") is None
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys")


def test_what_has_been_imported_stays() -> None:
    before = sys.modules["importlib"]
    with hidden("importlib"):
        assert sys.modules["importlib"] is before
    assert sys.modules["importlib"] is before
