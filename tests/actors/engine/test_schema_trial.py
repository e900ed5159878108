"""A schema that is not plain is compiled where its death is nobody's, once, with bounds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from al_ray.actors.engine.schema_trial import SchemaTrials
from al_ray.errors import BadRequestError
from al_ray.types import ChatRequest, Sampling

COSTLY = {"type": "string", "pattern": "(.*a.*b.*){1,100}[^x]{5,800}"}
"""Of which hundreds take half a minute."""


@pytest.fixture(scope="module")
def vocabulary() -> str:
    import xgrammar  # with torch and transformers

    letters = ["<eos>", *map(chr, range(32, 127))]
    return str(xgrammar.TokenizerInfo(letters, stop_token_ids=[0]).serialize_json())


@pytest.fixture
def trials(vocabulary: str) -> SchemaTrials:
    return SchemaTrials(lambda: vocabulary)


def held_to(schema: Any, attempt: str = "r/1") -> ChatRequest:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return ChatRequest("c", [{"role": "user", "content": "hi"}], Sampling(), None, None, attempt, wanted)


def many(schema: Any, count: int) -> Any:
    return {"type": "object", "properties": {f"p{i}": schema for i in range(count)}}


async def test_what_can_be_compiled_passes_also_what_the_compiler_refuses(trials: SchemaTrials) -> None:
    """The refusal is vLLM's to tell."""
    await trials.admit(held_to({"type": "string", "pattern": "a{2,3}"}))
    await trials.admit(held_to({"type": "string", "pattern": "((("}))


async def test_what_takes_too_long_is_refused_and_others_pass_meanwhile(trials: SchemaTrials) -> None:
    """However many such schemas an attempt has, another one's waits for one of them at most. The second
    time, the answer is known."""
    costly = [held_to(many(COSTLY, 300 + index), "greedy/1") for index in range(3)]
    outcomes = [asyncio.ensure_future(trials.admit(request)) for request in costly]
    await asyncio.sleep(0.05)
    await trials.admit(held_to({"type": "string", "pattern": "b{2,3}"}, "other/1"))
    assert sum(outcome.done() for outcome in outcomes) <= 1
    for outcome in outcomes:
        with pytest.raises(BadRequestError, match="response_format: compiling the schema takes more"):
            await outcome
    begun = time.perf_counter()
    with pytest.raises(BadRequestError):
        await trials.admit(costly[0])
    assert time.perf_counter() - begun < 1, "it was tried again"


async def test_a_compiler_that_dies_of_a_schema_takes_nobody_with_it(
    trials: SchemaTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bounds away, the process of a trial meets what ended vLLM's."""
    monkeypatch.setattr("al_ray.actors.engine.schema_trial.are_plain", lambda schemas: False)
    deep = {"type": "string", "pattern": "(" * 60_000 + "a" + ")" * 60_000}
    with pytest.raises(BadRequestError, match="send a simpler one"):
        await trials.admit(held_to(deep))
    await trials.admit(held_to({"type": "string", "pattern": "c{2,3}"}))
