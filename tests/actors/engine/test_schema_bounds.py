"""Schemas beyond the bounds are refused by place; plain ones need no trial."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from al_ray.actors.engine.schema_bounds import are_plain, demanded
from al_ray.errors import BadRequestError
from al_ray.types import ChatRequest, Sampling


class Line(BaseModel):
    """As an agent's library describes it."""

    name: str
    price: float
    kind: str | None = None


class Invoice(BaseModel):
    lines: list[Line]
    paid: bool


def chain(length: int) -> Any:
    links = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": links | {f"a{length}": {"type": "string"}}}


def nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def parentheses(depth: int) -> Any:
    return {"type": "string", "pattern": "(" * depth + "a" + ")" * depth}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (parentheses(60_000), "bytes|in a pattern"),
        (parentheses(600), "1201 characters in a pattern; at most 1024"),
        ({"type": "object", "patternProperties": {"x" * 2000: {}}}, "characters in a pattern"),
        (chain(30_000), "bytes"),
        (chain(1_100), "1001 references; at most 1000"),
        ({"enum": [f"{i}" for i in range(100_000)]}, "bytes"),
        ({"anyOf": [{"enum": list(range(600))}, {"enum": list(range(600))}]}, "1200 values in enumerations"),
        (nested(80), "levels; at most 64"),
        (nested(2000), "levels|read"),
    ],
)
def test_a_schema_beyond_a_bound_is_refused_with_its_place(schema: Any, told: str) -> None:
    with pytest.raises(BadRequestError, match=f"^tools.1: the schema .*({told})"):
        are_plain({"tools.0": {"type": "object"}, "tools.1": schema})


def test_the_bounds_are_those_of_all_schemas_together() -> None:
    enumerations = {f"tools.{i}": {"enum": list(range(300))} for i in range(4)}
    with pytest.raises(BadRequestError, match=r"^tools\.3: the schema has 1200 values"):
        are_plain(enumerations)


@pytest.mark.parametrize(
    ("schema", "plain"),
    [
        (Invoice.model_json_schema(), True),
        ({"type": "object", "properties": {"pattern": {"type": "string"}}}, True),
        ({"const": {"pattern": "(" * 5000}}, True),
        ({"type": "string", "pattern": "a+"}, False),
        ({"type": "array", "items": {"type": "string", "maxLength": 10**9}}, False),
        ({"enum": list(range(500))}, False),
        ({"description": "long " * 3000}, False),
    ],
)
def test_a_model_of_pydantic_is_plain_and_what_may_be_costly_is_not(schema: Any, plain: bool) -> None:
    """A property's name and a constant's value are no keywords."""
    assert are_plain({"response_format": schema}) is plain


SCHEMA = {"type": "object"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("asked", "places"),
    [
        ({"tools": [TOOL]}, []),
        ({"tools": [TOOL], "tool_choice": "auto"}, []),
        ({"tools": [TOOL, TOOL], "tool_choice": "required"}, ["tools.0", "tools.1"]),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}}, ["tools.0"]),
        ({"response_format": FORMAT}, ["response_format"]),
        ({"response_format": FORMAT, "tools": [TOOL]}, ["response_format", "tools.0"]),
        ({"response_format": {"type": "json_object"}}, []),
    ],
)
def test_a_response_is_held_to_what_is_demanded(asked: Any, places: list[str]) -> None:
    request = ChatRequest("c", [{"role": "user", "content": "hi"}], Sampling(), **asked)
    assert list(demanded(request)) == places
