"""What a library finds when it is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Whoever is imported inside does not find the packages, but those that have been imported before."""
    modules = cast("dict[str, object]", sys.modules)
    unseen = [package for package in packages if package not in modules]
    modules.update(dict.fromkeys(unseen))  # None is Python's word for one that is not there
    try:
        yield
    finally:
        for package in unseen:
            del modules[package]


def transformers_alone() -> AbstractContextManager[None]:
    """Inside, its models are imported: where scikit-learn and scipy are installed, they take a function of
    each, to find objects in pictures and for a way to generate that nobody here uses, and pandas with them:
    more than a second in each process."""
    return hidden("sklearn", "scipy")
