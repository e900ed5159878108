"""What the actors of a run are started with."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from al_ray.recipe import Recipe
from al_ray.run.launch import specs
from al_ray.traces import semconv
from tests.support.houses.at_hand import open_at_hand
from tests.support.models.fake_engine import FakeEngine
from tests.support.runs import toy


async def test_where_the_variable_of_the_collectors_key_is_empty_nobody_is_the_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends no key at all could write to any attempt, and reward it."""
    recipe = Recipe.model_validate(toy.recipe(Path("model"), Path("out")))
    monkeypatch.setenv(recipe.traces.collector_key_env, "")
    async with open_at_hand(tmp_path, FakeEngine("a"), specs.gateway_spec(recipe, None)) as house:
        attempt = await house.attempt()
        export = ExportTraceServiceRequest()
        resource = export.resource_spans.add()
        resource.resource.attributes.add(key=semconv.ROLLOUT_ID).value.string_value = attempt.rollout_id
        resource.resource.attributes.add(key=semconv.ATTEMPT).value.int_value = attempt.number
        span = resource.scope_spans.add().spans.add(name="mine", trace_id=b"t" * 16, span_id=b"s" * 8)
        span.attributes.add(key=semconv.REWARD).value.double_value = 1.0
        headers = {"Content-Type": "application/x-protobuf"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{house.url}/traces", data=export.SerializeToString(), headers=headers) as answer,
        ):
            assert answer.status == 401
        assert house.calls(attempt) == []
