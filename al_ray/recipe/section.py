"""What all sections of a recipe are made of: typed, frozen, and nothing that is not known.

A section knows nothing of files, clusters or other sections; ``loading`` reads and overrides them, ``checks``
compares them. Every field's docstring is what ``docs/recipes.md`` prints.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

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


_NUMBERS: Final = frozenset({int, float})
_PLAIN: Final = _NUMBERS | {str, type(None)}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, values: Any) -> Any:
        """pydantic takes true for 1, and YAML yes and on for true. Text is taken for the number that it is,
        since YAML 1.1 reads 1e-5 as text; a boolean as text is none."""
        if not isinstance(values, dict):
            return values
        numbers = {name for name, field in cls.model_fields.items() if _is_of_numbers(field.annotation)}
        return {name: _as_text(each) if name in numbers else each for name, each in values.items()}


def _is_of_numbers(annotation: Any) -> bool:
    """Whether a value of this type is numbers, with or without names, or none."""
    kinds = set(_kinds(annotation))
    return bool(kinds & _NUMBERS) and kinds <= _PLAIN


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types of the values in something of this type; those of keys too."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _kinds(arguments[0])
    elif origin is Literal:
        yield from map(type, arguments)
    elif arguments:
        for each in arguments:
            yield from () if each is Ellipsis else _kinds(each)
    else:
        yield annotation


def _as_text(value: Any) -> Any:
    """With each boolean in it so."""
    if isinstance(value, dict):
        return {name: _as_text(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_text(each) for each in value]
    return str(value).lower() if isinstance(value, bool) else value


def no_such_key(name: str, known: Iterable[str]) -> str:
    """The cure for an unknown key: the known one that resembles it, or all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return "no such key; " + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}")
