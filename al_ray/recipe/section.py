"""What all sections of a recipe are made of: typed, frozen, and nothing that is not known.

A section knows nothing of files, clusters or other sections; ``loading`` reads and overrides them, ``checks``
compares them. Every field's docstring is what ``docs/recipes.md`` prints.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
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

_DOTTED_PATH: Final = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
_NAME: Final = r"^\w[\w.-]*$"
_POLICY_NAME: Final = r"^\w[\w-]*$"
_VARIABLE: Final = r"^[A-Za-z_]\w*$"
_WITHIN: Final = r"^/\w[^,:]*$"
CURES: Final[Mapping[str, str]] = {
    _DOTTED_PATH: "write it as package.module:attribute",
    _NAME: "letters, digits and _.- are allowed, the first a letter or digit",
    _POLICY_NAME: "a policy's name: letters, digits and _- are allowed, the first a letter or digit",
    _VARIABLE: "a variable's name alone: its value is the one that is set where the driver runs",
    _WITHIN: "write an absolute path, as it is seen within: /data, without a comma or colon",
}
"""What is told of text that is not like the pattern."""
DottedPath = Annotated[str, StringConstraints(pattern=_DOTTED_PATH)]
"""``package.module:attribute``."""
Name = Annotated[str, StringConstraints(pattern=_NAME)]
"""Of a folder: letters, digits and ``_.-``."""
PolicyName = Annotated[str, StringConstraints(pattern=_POLICY_NAME)]
"""Of a folder and a metric: letters, digits and ``_-``."""
Variable = Annotated[str, StringConstraints(pattern=_VARIABLE)]
"""The name of one of the environment's."""
Within = Annotated[str, StringConstraints(pattern=_WITHIN)]
"""A path in a sandbox."""
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def variable_part(name: str) -> str:
    """``name`` as a part of the name of an environment's variable, which several may share."""
    return re.sub(r"\W", "_", name).upper()


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
    if not known:
        return "no such key; there is none here"
    close = difflib.get_close_matches(name, known, n=1)
    return "no such key; " + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}")
