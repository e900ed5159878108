"""Request bodies: whatever comes, it is understood or refused by name, and nothing else happens."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from al_ray.actors.gateway.dialects import DIALECTS
from al_ray.actors.gateway.dialects.core import Asked, Dialect
from al_ray.errors import BadRequestError

OTHERS = st.none() | st.booleans() | st.floats() | st.text(max_size=5)
SCALARS = OTHERS | st.integers(-(2**70), 2**70)
STORED = OTHERS | st.integers(-(2**63), 2**64 - 1)
KEYS = st.sampled_from(["type", "role", "content", "text", "name", "input", "id", "function", "x"]) | st.text(
    max_size=3
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
MESSAGE: Any = {"role": "user", "content": "hi"}
LEAST: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [MESSAGE]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": [MESSAGE]},
    "/v1/messages": {"messages": [MESSAGE], "max_tokens": 9},
}

dialects = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.path)


def parsed(dialect: Dialect, raw: bytes) -> Asked | None:
    """None where it is refused, in words."""
    try:
        return dialect.parse(raw)
    except BadRequestError as error:
        assert len(str(error)) > 5
        return None


@dialects
@settings(max_examples=50, deadline=None)
@given(raw=st.binary(max_size=60))
@example(raw=b"{}")
def test_bytes_that_are_no_body_are_refused(dialect: Dialect, raw: bytes) -> None:
    assert parsed(dialect, raw) is None


@dialects
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_body_with_anything_in_a_field_is_understood_or_refused(dialect: Dialect, data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(dialect.body.model_fields)))
    body = LEAST[dialect.path] | {name: data.draw(VALUES)}
    parsed(dialect, dumped(body))


@dialects
@settings(max_examples=50, deadline=None)
@given(extra=st.dictionaries(st.text(min_size=1).map("x-".__add__), STORED, max_size=4))
def test_unknown_fields_are_without_effect(dialect: Dialect, extra: dict[str, Any]) -> None:
    known = parsed(dialect, dumped(LEAST[dialect.path]))
    also = parsed(dialect, dumped(LEAST[dialect.path] | extra))
    assert known is not None and also is not None
    assert also.messages == known.messages and also.sampling == known.sampling and also.said == known.said


@dialects
@pytest.mark.parametrize("name", ["temperature", "top_p", "stream"])
def test_a_wrong_type_is_named(dialect: Dialect, name: str) -> None:
    with pytest.raises(BadRequestError, match=f"^{name}: "):
        dialect.parse(orjson.dumps(LEAST[dialect.path] | {name: "much"}))


@dialects
def test_no_body_nests_beyond_what_the_store_takes(dialect: Dialect) -> None:
    deep: Any = 1
    for _ in range(250):
        deep = [deep]
    raw = orjson.dumps(LEAST[dialect.path])[:-1] + b',"tools":' + orjson.dumps(deep) + b"}"
    with pytest.raises(BadRequestError, match="recursion limit"):
        dialect.parse(raw)


def dumped(body: Any) -> bytes:
    """By Python's own JSON, which writes all that hypothesis thinks of."""
    return json.dumps(body).encode("utf-8", "surrogatepass")


@dialects
@pytest.mark.parametrize(
    "digits", [str(2**64), str(-(2**63) - 1), "9" * 5000], ids=["more", "less", "endless"]
)
def test_an_integer_that_no_store_takes_is_refused_wherever_it_stands(dialect: Dialect, digits: str) -> None:
    for raw in (b'{"metadata": {"x": [%s]}}', b'{"messages": [{"role": "user", "content": %s}]}'):
        with pytest.raises(BadRequestError, match="more than 64 bits"):
            dialect.parse(raw.replace(b"%s", digits.encode()))


@dialects
def test_digits_in_a_text_are_no_integer(dialect: Dialect) -> None:
    body = LEAST[dialect.path] | {"x": ["1" * 60, 2**63]}
    assert parsed(dialect, dumped(body)) is not None
