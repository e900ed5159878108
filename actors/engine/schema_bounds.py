"""How large a schema may be that a response is held to, and which schemas are too plain to harm anybody.

vLLM's grammar compiler ends its process on some schemas and is busy for minutes with others, and it is
everybody's. What is beyond the bounds is refused; what lies within them and is not plain must be tried
first (``schema_trial``). The bounds are near those of OpenAI's structured outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import orjson

from al_ray.errors import BadRequestError
from al_ray.types import JSON, ChatRequest

MAX_BYTES: Final = 2**17
MAX_DEPTH: Final = 64
"""vLLM's own."""
MAX_PATTERN: Final = 1024
"""Characters."""
MAX_VALUES: Final = 1000
"""In all enumerations together."""
MAX_REFERENCES: Final = 1000

_PLAIN_BYTES: Final = 2**13
_PLAIN_VALUES: Final = 100
_PLAIN: Final = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf"),
        *("title", "description", "default", "examples", "$schema", "$ref", "$defs", "definitions"),
    }
)
"""Keywords of which a few thousand bytes are compiled in no time."""
_NAMES: Final = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
"""Keywords whose keys are names."""
_VALUES: Final = frozenset({"const", "default", "examples", "required", "enum"})
"""Keywords that hold no schema."""


def demanded(request: ChatRequest) -> dict[str, JSON]:
    """The schemas that the response to ``request`` is held to, by their place in it.

    Tools that the model may leave alone hold it to nothing, unless it must choose between them and a
    format.
    """
    schemas: dict[str, JSON] = {}
    if isinstance(request.response_format, Mapping):
        named = request.response_format.get("json_schema")
        if isinstance(named, Mapping) and "schema" in named:
            schemas["response_format"] = named["schema"]
    elif request.tool_choice in (None, "none", "auto"):
        return {}
    for index, tool in enumerate(request.tools or ()):
        function = tool.get("function")
        if isinstance(function, Mapping) and "parameters" in function:
            schemas[f"tools.{index}"] = function["parameters"]
    return schemas


def are_plain(schemas: Mapping[str, JSON]) -> bool:
    """Whether all of ``schemas`` may be compiled without a trial. Raises ``BadRequestError`` that names the
    one that is beyond a bound, or the place where they are together."""
    plain, size, values, references = True, 0, 0, 0
    for place, schema in schemas.items():
        size += len(_dumped(place, schema))
        _require(size, MAX_BYTES, place, "bytes")
        for keyword, value in _keywords(schema, place):
            plain = plain and keyword in _PLAIN
            match keyword, value:
                case "pattern", str():
                    _require(len(value), MAX_PATTERN, place, "characters in a pattern")
                case "patternProperties", Mapping():
                    longest = max(map(len, value), default=0)
                    _require(longest, MAX_PATTERN, place, "characters in a pattern")
                case "enum", Sequence():
                    values += len(value)
                    _require(values, MAX_VALUES, place, "values in enumerations")
                case "$ref", _:
                    references += 1
                    _require(references, MAX_REFERENCES, place, "references")
    return plain and size <= _PLAIN_BYTES and values <= _PLAIN_VALUES


def _require(found: int, limit: int, place: str, what: str) -> None:
    if found > limit:
        raise BadRequestError(f"{place}: the schema has {found} {what}; at most {limit} can be compiled")


def _dumped(place: str, schema: JSON) -> bytes:
    try:
        return orjson.dumps(schema)
    except TypeError as error:  # deeper than orjson goes
        raise BadRequestError(f"{place}: the schema cannot be read: {error}") from None


def _keywords(schema: JSON, place: str) -> Iterator[tuple[str, JSON]]:
    """Every keyword of the schema and of those within it, with its value."""
    waiting: list[tuple[JSON, int]] = [(schema, 1)]
    while waiting:
        here, depth = waiting.pop()
        _require(depth, MAX_DEPTH, place, "levels")
        if isinstance(here, Mapping):
            for keyword, value in here.items():
                yield keyword, value
                if keyword in _NAMES and isinstance(value, Mapping):
                    waiting += [(inner, depth + 2) for inner in value.values()]
                elif keyword not in _VALUES:
                    waiting.append((value, depth + 1))
        elif isinstance(here, Sequence) and not isinstance(here, str):
            waiting += [(inner, depth + 1) for inner in here]
