"""One rollout as its page tells it."""

from __future__ import annotations

import pytest

from al_ray.types import JSON
from al_ray.viewing.told import pretty


@pytest.mark.parametrize(
    "text",
    [
        "1.10",
        "1e999",
        "007",
        "12345678901234567890.0",
        '"quoted"',
        '{"a": 1, "a": 2}',
        '{"price": 1.10}',
        "[1e3]",
        "[NaN, ",
        "",
    ],
)
def test_what_a_tool_was_told_or_tells_is_shown_as_it_was_written(text: str) -> None:
    """Where other digits, fewer keys or no quotes would stand in a layout of it."""
    assert pretty(text) == text


@pytest.mark.parametrize("value", ['{"a":[1,2.5],"b":{"c":null}}', {"a": [1, 2.5], "b": {"c": None}}])
def test_objects_and_arrays_are_laid_out(value: JSON) -> None:
    assert pretty(value) == '{\n "a": [\n  1,\n  2.5\n ],\n "b": {\n  "c": null\n }\n}'
    assert pretty(2**70) == str(2**70)
