"""What a library finds when it is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Whoever is imported inside does not find the package, unless it has been imported before."""
    if package in sys.modules:
        yield
        return
    modules = cast("dict[str, object]", sys.modules)
    modules[package] = None  # Python's word for one that is not there
    try:
        yield
    finally:
        del modules[package]


def without_sklearn() -> AbstractContextManager[None]:
    """For the import of transformers' models: of scikit-learn, where that is installed, they take one
    function of a way to generate that nobody here uses, and with it scipy and pandas: a second and more in
    each process."""
    return hidden("sklearn")
