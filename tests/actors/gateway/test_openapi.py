"""The published OpenAPI document is true, and no request that is made from it makes the gateway fail."""

from __future__ import annotations

import uuid
from typing import Any
from unittest.mock import Mock

import pytest
import ray
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from al_ray.actors.gateway.actor import Gateway
from al_ray.actors.gateway.openapi import BODIES, PATH, document
from al_ray.types import RolloutRequest, Task
from tests.support.houses.gateway import SPEC, House, say

MEMORY = 100 * 2**20
"""What a few hundred requests may add to a gateway, at most."""


@schemathesis.serializer("application/x-protobuf")
def _garbage(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else repr(value).encode()


API = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def before(house: House) -> int:
    """The memory of the gateway before all the tests here that ask for it."""
    return house.memory()


@pytest.fixture
def key(house: House, engine_a: Any) -> str:
    """Of an attempt, at a gateway that answers."""
    ray.get(house.gateway.admit.remote([engine_a]))
    name = uuid.uuid4().hex
    ray.get(house.store.enqueue.remote([RolloutRequest(name, "b", "g", Task("t", {}))]))
    (claim,) = ray.get(house.store.claim.remote("w", name, 1, 0.0))
    return claim.attempt.key


def _expanded(schema: Any, parts: dict[str, Any]) -> Any:
    """Without references: each part stands where it is meant."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _expanded(parts[schema["$ref"].rpartition("/")[2]], parts)
        return {name: _expanded(value, parts) for name, value in schema.items() if name != "discriminator"}
    return [_expanded(item, parts) for item in schema] if isinstance(schema, list) else schema


def test_the_document_names_every_route_and_no_other() -> None:
    served = {(route.method, route.path) for route in Gateway(SPEC, "")._routes(Mock())}
    told = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    assert told == served


@pytest.mark.parametrize("path", BODIES)
def test_every_body_is_described_by_its_own_parts_also_where_two_apis_name_theirs_alike(path: str) -> None:
    told = document()
    content = told["paths"][path]["post"]["requestBody"]["content"]
    own = BODIES[path].model_json_schema()
    described = _expanded(content["application/json"]["schema"], told["components"]["schemas"])
    assert described == _expanded(own, own.pop("$defs", {}))


def test_the_document_is_served_to_everybody(house: House) -> None:
    assert requests.get(house.url.removesuffix("/v1") + PATH, timeout=20).json() == document()


@pytest.mark.slow
@API.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_is_answered_as_the_document_says(
    case: Any, house: House, before: int, key: str
) -> None:
    """Never by a failure of ours: what is right is answered, what is wrong is refused in the API's own shape,
    and without a key nothing is. That a body is right by its fields does not make it right as a whole."""
    url = house.url.removesuffix("/v1")
    headers = {"Authorization": f"Bearer {key}"}
    case.call_and_validate(base_url=url, headers=headers, excluded_checks=[positive_data_acceptance])


@pytest.mark.slow
async def test_the_gateway_goes_on_after_all_that_and_has_not_grown(
    house: House, before: int, engine_a: Any
) -> None:
    """The last test of its gateway."""
    await house.admit(engine_a)
    attempt = await house.attempt()
    assert house.memory() - before < MEMORY
    async with house.client(attempt) as client:
        answer = await client.chat.completions.create(model="m", messages=say("hello"))
    assert [span.id for span in house.calls(attempt)] == [answer.id]
