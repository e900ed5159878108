"""The words of a span: what was said, thought, asked of tools and answered by them, and printed, and by whom.
Tokens, counts, ids and the names of attributes are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import orjson

from al_ray.traces import semconv
from al_ray.types import JSON

_MESSAGES: Final = (semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES)
_MARKS: Final = frozenset({"role", "type", "id", "tool_call_id"})
"""What is of a message but not said in it."""
_OTHERS: Final = (
    semconv.AGENT_NAME,
    semconv.TOOL_NAME,
    semconv.TOOL_CALL_ARGUMENTS,
    semconv.TOOL_CALL_RESULT,
    semconv.STDOUT,
    semconv.STDERR,
)


def words(attributes: Mapping[str, JSON]) -> Iterator[str]:
    """Of the span with these."""
    for name in _MESSAGES:
        yield from _said(attributes.get(name))
    for name in _OTHERS:
        if name in attributes:
            yield _text(attributes[name])


def _said(value: JSON) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _MARKS:
                yield from _said(each)
    elif isinstance(value, list):
        for each in value:
            yield from _said(each)
    elif value is not None:
        yield _text(value)


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
