"""Bodies of many parts: how much of them is told, and how long that takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from al_ray.actors.gateway.agent_reports import EventBody, RewardBody
from al_ray.actors.gateway.dialects import DIALECTS
from al_ray.actors.gateway.dialects.core import parse_body
from al_ray.errors import BadRequestError
from tests.support.houses.gateway import say

PARSERS: dict[str, Callable[[bytes], Any]] = {
    **{dialect.path.removeprefix("/v1/"): dialect.parse for dialect in DIALECTS},
    "rewards": lambda raw: parse_body(RewardBody, raw),
    "events": lambda raw: parse_body(EventBody, raw),
}
MANY = 2_000
WRONG: list[Any] = [1] * MANY
SAID: dict[str, Any] = {"model": "m", "max_tokens": 1, "messages": say("a")}


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("completions", {"prompt": ["a"] * MANY}),
        ("completions", {"prompt": [-1] * MANY}),
        ("completions", {"prompt": "a", "stop": WRONG}),
        ("chat/completions", SAID | {"stop": WRONG}),
        ("chat/completions", SAID | {"messages": WRONG}),
        ("chat/completions", SAID | {"tools": WRONG}),
        ("messages", SAID | {"messages": WRONG}),
        ("messages", SAID | {"messages": [{"role": "user", "content": WRONG}]}),
        ("messages", SAID | {"system": WRONG}),
        ("messages", SAID | {"tools": WRONG}),
        ("messages", SAID | {"stop_sequences": WRONG}),
        ("responses", {"input": WRONG}),
        ("responses", {"input": [{}] * MANY}),
        ("responses", {"input": [{"role": "user", "content": WRONG}]}),
        ("responses", {"input": [{"type": "reasoning", "content": WRONG}]}),
        ("responses", {"input": "a", "tools": WRONG}),
        ("responses", {"input": "a", "include": WRONG}),
        ("responses", {"input": "a", "metadata": {str(name): 1 for name in range(MANY)}}),
        ("rewards", {"value": 1, "dimensions": {str(name): "" for name in range(MANY)}}),
        ("events", {"name": "a", "attributes": {f"\0{name}": 1 for name in range(MANY)}}),
    ],
)
def test_of_millions_of_mistakes_a_few_are_told(api: str, body: Any) -> None:
    """A gateway took gigabytes to tell all of a body, in an answer many times as large."""
    with pytest.raises(BadRequestError) as refused:
        PARSERS[api](orjson.dumps(body))
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("kind", ["message", "reasoning"])
def test_a_turn_of_many_items_is_read_in_the_time_of_its_length(kind: str) -> None:
    """16 MiB of them held a gateway's event loop for two minutes. They are one turn all the same."""
    said = {"type": "message", "role": "assistant", "id": "x", "content": "a"}
    thought = {"type": "reasoning", "id": "x", "content": [{"type": "reasoning_text", "text": "a"}]}
    item = said if kind == "message" else thought

    def seconds(items: int) -> float:
        raw = orjson.dumps({"input": [{"role": "user", "content": "q"}, *[item] * items]})
        begun = time.process_time()
        asked = PARSERS["responses"](raw)
        took = time.process_time() - begun
        assert asked.messages[1].get("content" if kind == "message" else "reasoning") == "a" * items
        return took

    seconds(100)
    assert seconds(40_000) < 40 * seconds(4_000)
