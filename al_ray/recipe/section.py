"""What all sections of a recipe are made of: typed, frozen, and nothing that is not known.

A section knows nothing of files, clusters or other sections; ``loading`` reads and overrides them, ``checks``
compares them. Every field's docstring is what ``docs/recipes.md`` prints.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

DottedPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""``package.module:attribute``."""
Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]
"""Of a folder: letters, digits and ``_.-``."""
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def http_url(url: str) -> str:
    """``url``, if it is one of a server. Raises ``ValueError`` that says what would be."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of brackets
        is_one = False
    if not is_one or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("write http://HOST:PORT/PATH or https://HOST/PATH")
    return url


HttpUrl = Annotated[str, AfterValidator(http_url)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def no_such_key(name: str, known: Iterable[str]) -> str:
    """The cure for an unknown key: the known one that resembles it, or all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return "no such key; " + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}")
